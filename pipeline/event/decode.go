package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Bounds on what Decode takes. They leave room above what an Encoder makes, for later minor versions.
const (
	maxDecode      = 4 * MaxSize
	maxHeaders     = 64
	maxHeaderValue = 3 * MaxSize
)

// Decode reads a message of the EVENTS stream. It takes any event of this major version: types and fields that it does
// not know are left alone and are in Data. It refuses a message that is too large, is no CloudEvent in binary mode, or whose
// subject, headers and data disagree about what the event is.
//
// What is decoded is what the sender said. Whether the attestation is good, only verifying the bundle tells.
func Decode(subject string, header map[string][]string, data []byte) (*Event, error) {
	if len(data) > maxDecode || len(header) > maxHeaders {
		return nil, fmt.Errorf("decoding event: %d bytes and %d headers, at most %d and %d are read", len(data), len(header), maxDecode, maxHeaders)
	}
	tokens, err := ParseSubject(subject)
	if err != nil {
		return nil, fmt.Errorf("decoding event: %w", err)
	}
	fail := func(format string, args ...any) (*Event, error) {
		return nil, fmt.Errorf("decoding event %.100q: %w", subject, fmt.Errorf(format, args...))
	}
	attr := func(name string) string {
		v := header[name]
		if len(v) != 1 || len(v[0]) > maxHeaderValue {
			return ""
		}
		s, err := percentDecode(v[0])
		if err != nil {
			return ""
		}
		return s
	}
	if v := attr("ce-specversion"); v != "1.0" {
		return fail("not a CloudEvent 1.0: ce-specversion %.20q", v)
	}
	if ct, _, _ := strings.Cut(attr("content-type"), ";"); strings.TrimSpace(ct) != "application/json" {
		return fail("content-type %.100q, want application/json", ct)
	}
	var d cdevent
	if err := json.Unmarshal(data, &d); err != nil {
		return fail("reading its data: %w", err)
	}
	for _, a := range [...]struct{ name, data string }{
		{"ce-id", d.Context.ID}, {"ce-source", d.Context.Source}, {"ce-type", d.Context.Type},
	} {
		switch v := attr(a.name); {
		case v == "":
			return fail("%s is missing", a.name)
		case v != a.data:
			return fail("%s is %.200q, its data says %.200q", a.name, v, a.data)
		}
	}
	if d.Context.Timestamp.IsZero() || d.Subject.ID == "" {
		return fail("its data has no timestamp or no subject")
	}
	if p := predicate(d.Context.Type); p != tokens.Event {
		return fail("its type is %.200q", d.Context.Type)
	}
	if tokens.Event == Signed && d.Subject.Content.Signature == "" {
		return fail("there is no signature")
	}
	e := &Event{
		Subject: subject, Tokens: tokens,
		ID: d.Context.ID, Source: d.Context.Source, Type: d.Context.Type, Time: d.Context.Timestamp.UTC(),
		PURL: d.Subject.ID, ChainID: d.Context.ChainID, Signature: d.Subject.Content.Signature,
		Traceparent: attr("traceparent"), Details: d.CustomData, Data: data,
	}
	return e, nil
}

// predicate is the part of a CDEvents type that the subject's event token repeats: "signed" in
// "dev.cdevents.artifact.signed.0.3.0".
func predicate(typ string) string {
	parts := strings.SplitN(typ, ".", 5)
	if len(parts) != 5 || parts[0] != "dev" || parts[1] != "cdevents" && parts[1] != "cdeventsx" {
		return ""
	}
	return parts[3]
}

// MalformedError is a message of the stream that is no event of this version.
type MalformedError struct {
	Sequence uint64
	Stored   time.Time
	Subject  string
	Err      error
}

func (e *MalformedError) Error() string {
	return fmt.Sprintf("message %d of the stream: %v", e.Sequence, e.Err)
}
func (e *MalformedError) Unwrap() error { return e.Err }

// IsMalformed reports whether err is about one message only, so that a subscriber may go on.
func IsMalformed(err error) bool {
	_, ok := errors.AsType[*MalformedError](err)
	return ok
}
