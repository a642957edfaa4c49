package attest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

// maxFilename is the greatest length of a package's file name (CEP 26, "Filenames").
const maxFilename = 211

// maxChannelURL is the greatest length of a targetChannel (CEP 27, JSON schema).
const maxChannelURL = 2083

type statement struct {
	Type          string     `json:"_type"`
	Subject       []subject  `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     *predicate `json:"predicate"`
}

type subject struct {
	Name   string `json:"name"`
	Digest struct {
		SHA256 string `json:"sha256"`
	} `json:"digest"`
}

type predicate struct {
	TargetChannel string `json:"targetChannel"`
}

// Statement gives the in-toto statement of a publish attestation (CEP 27, "Attestation format"): that the package
// filename, with the given SHA-256 (lower-case hex), is published to targetChannel. With targetChannel "" the predicate
// is null. The bytes are compact JSON and a function of the arguments alone.
//
// Errors are *Error: CodeFilename, CodeDigest, or those of CheckTargetChannel.
func Statement(filename, sha256hex, targetChannel string) ([]byte, error) {
	if err := (Subject{Filename: filename, SHA256: sha256hex}).check(); err != nil {
		return nil, err
	}
	st := statement{Type: StatementType, Subject: make([]subject, 1), PredicateType: PredicateType}
	st.Subject[0].Name = filename
	st.Subject[0].Digest.SHA256 = sha256hex
	if targetChannel != "" {
		if err := CheckTargetChannel(targetChannel); err != nil {
			return nil, err
		}
		st.Predicate = &predicate{TargetChannel: targetChannel}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(st); err != nil {
		return nil, fmt.Errorf("encoding the statement of %s: %w", filename, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Subject is the package that an attestation is about.
type Subject struct {
	Filename string // the full file name in the channel, without subdir
	SHA256   string // of the package's bytes, lower-case hex
}

func (s Subject) check() error {
	if err := checkFilename(s.Filename); err != nil {
		return refuse(CodeFilename, err, "give the file's name in the channel: name-version-build.conda or .tar.bz2, without a folder")
	}
	if !isSHA256(s.SHA256) {
		return refuse(CodeDigest, errors.New("the digest is not 64 lower-case hex digits"), "")
	}
	return nil
}

// checkFilename refuses what cannot be a package's file name, by the characters that CEP 26 allows in its parts. It does
// not take the name apart: that is for who reads the package.
func checkFilename(name string) error {
	stem, ok := strings.CutSuffix(name, ".conda")
	if !ok {
		stem, ok = strings.CutSuffix(name, ".tar.bz2")
	}
	switch {
	case name == "":
		return errors.New("the file name is empty")
	case len(name) > maxFilename:
		return fmt.Errorf("the file name has %d characters, more than %d", len(name), maxFilename)
	case strings.ContainsAny(name, `/\`):
		return fmt.Errorf("the file name %q has a folder in it", name)
	case !ok || stem == "":
		return fmt.Errorf("the file name %q does not end in .conda or .tar.bz2", name)
	case strings.HasPrefix(name, "."):
		return fmt.Errorf("the file name %q begins with a period", name)
	}
	for _, r := range name {
		if !isAlphanumeric(r) && !strings.ContainsRune("._+!-", r) {
			return fmt.Errorf("the file name %q contains %q", name, r)
		}
	}
	return nil
}

func isAlphanumeric(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

func isSHA256(s string) bool {
	if len(s) != 64 {
		return false
	}
	return strings.Trim(s, "0123456789abcdef") == ""
}

// claimed is what a statement says, once its form is known to be that of CEP 27.
type claimed struct {
	Subject
	TargetChannel *string // nil if the predicate is absent or null
}

// parseStatement reads a statement's bytes and checks everything that CEP 27 says of the form (MUST): it does not
// compare with any package. What it gives alongside an error is what was read until then.
func parseStatement(data []byte) (c claimed, err error) {
	o, err := strictjson.DecodeObject(data)
	if err != nil {
		return c, refuse(CodeStatementMalformed, fmt.Errorf("the statement: %w", err), "")
	}
	if t, _ := o["_type"].(string); t != StatementType {
		return c, refuse(CodeStatementType, fmt.Errorf("the statement's _type is %s, not %q", shown(o["_type"]), StatementType), "")
	}
	if t, _ := o["predicateType"].(string); t != PredicateType {
		return c, refuse(CodeStatementPredicateType,
			fmt.Errorf("the predicateType is %s, not %q", shown(o["predicateType"]), PredicateType),
			"the bundle is another kind of attestation; a publish attestation is needed")
	}
	subjects, ok := o["subject"].([]any)
	if !ok {
		return c, refuse(CodeStatementSubjectCount, fmt.Errorf("subject is %s, not an array", strictjson.KindOf(o["subject"])), "")
	}
	if len(subjects) != 1 {
		return c, refuse(CodeStatementSubjectCount, fmt.Errorf("the statement has %d subjects, not one", len(subjects)),
			"sign each package with a statement of its own")
	}
	if c.Subject, err = parseSubject(subjects[0]); err != nil {
		return c, err
	}
	c.TargetChannel, err = parsePredicate(o["predicate"])
	return c, err
}

func parseSubject(v any) (Subject, error) {
	so, ok := v.(strictjson.Object)
	if !ok {
		return Subject{}, refuse(CodeStatementSubjectName, fmt.Errorf("the subject is %s, not an object", strictjson.KindOf(v)), "")
	}
	name, ok := so["name"].(string)
	if !ok {
		return Subject{}, refuse(CodeStatementSubjectName, fmt.Errorf("the subject's name is %s, not a string", strictjson.KindOf(so["name"])), "")
	}
	s := Subject{Filename: name}
	digest, ok := so["digest"].(strictjson.Object)
	if !ok {
		return s, refuse(CodeStatementDigestSet, fmt.Errorf("the subject's digest is %s, not an object", strictjson.KindOf(so["digest"])), "")
	}
	hex, _ := digest["sha256"].(string)
	if len(digest) != 1 || !isSHA256(hex) {
		return s, refuse(CodeStatementDigestSet, errors.New("the subject's digest set is not one sha256 entry of 64 lower-case hex digits"), "")
	}
	s.SHA256 = hex
	return s, nil
}

// parsePredicate checks what every reader may rely on: a URL without trailing slash. It does not ask for all that
// CheckTargetChannel does, because others sign, too, and CEP 27 asks no more.
func parsePredicate(v any) (*string, error) {
	if v == nil {
		return nil, nil
	}
	po, ok := v.(strictjson.Object)
	if !ok {
		return nil, refuse(CodeStatementPredicate, fmt.Errorf("the predicate is %s, not an object or null", strictjson.KindOf(v)), "")
	}
	target, ok := po["targetChannel"].(string)
	if !ok {
		return nil, refuse(CodeStatementPredicate, fmt.Errorf("targetChannel is %s, not a string", strictjson.KindOf(po["targetChannel"])), "")
	}
	if len(target) > maxChannelURL {
		return nil, refuse(CodeStatementPredicate, fmt.Errorf("targetChannel has %d bytes, more than %d", len(target), maxChannelURL), "")
	}
	u, err := url.Parse(target)
	if err != nil || u.Scheme == "" || u.Host == "" || strings.HasSuffix(target, "/") {
		// The URL is not shown: it may hold credentials.
		return nil, refuse(CodeStatementPredicate, errors.New("targetChannel is not a URL without trailing slash"), "")
	}
	return &target, nil
}

// shown gives a value of a foreign statement, shortened, for a message.
func shown(v any) string {
	if s, ok := v.(string); ok {
		return fmt.Sprintf("%.200q", s)
	}
	return strictjson.KindOf(v)
}
