package event

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Prefix opens every event's subject. A new major version of the data gets a new prefix.
const Prefix = "attest.v1"

// unknown stands for a token whose value is not known.
const unknown = "_"

// maxToken bounds one escaped token, so that a subject stays far below what a NATS server takes for a protocol line.
const maxToken = 255

// Tokens are the parts of an event's subject, unescaped; "" for what is not known.
type Tokens struct {
	Event    string `json:"event"`
	Campaign string `json:"campaign"`
	Channel  string `json:"channel"`
	Subdir   string `json:"subdir"`
	Name     string `json:"name"`
	ID       string `json:"id"`
}

// Subject returns attest.v1.<event>.<campaign>.<channel>.<subdir>.<name>.<id>. In each token '.', '*', '>', '%', white
// space, control characters and everything outside ASCII are percent-encoded; "" becomes "_" (and a literal "_" "%5F").
// A token longer than 255 bytes is cut and closed with '~' and 16 hex digits of its SHA-256, so that it stays distinct.
func Subject(event, campaign, channel, subdir, name, id string) string {
	var b strings.Builder
	b.WriteString(Prefix)
	for _, t := range [...]string{event, campaign, channel, subdir, name, id} {
		b.WriteByte('.')
		b.WriteString(escape(t))
	}
	return b.String()
}

// ParseSubject is the inverse of Subject; a token that was cut stays cut.
func ParseSubject(subject string) (Tokens, error) {
	rest, ok := strings.CutPrefix(subject, Prefix+".")
	if !ok {
		return Tokens{}, fmt.Errorf("subject %.100q is not below %s", subject, Prefix)
	}
	parts := strings.SplitN(rest, ".", 7)
	if len(parts) != 6 {
		return Tokens{}, fmt.Errorf("subject %.100q: want 6 tokens after %s", subject, Prefix)
	}
	var t Tokens
	for i, into := range [...]*string{&t.Event, &t.Campaign, &t.Channel, &t.Subdir, &t.Name, &t.ID} {
		v, err := unescape(parts[i])
		if err != nil {
			return Tokens{}, fmt.Errorf("subject %.100q: %w", subject, err)
		}
		*into = v
	}
	return t, nil
}

func escape(s string) string {
	switch s {
	case "":
		return unknown
	case unknown:
		return "%5F"
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '.' || c == '*' || c == '>' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	out := b.String()
	if len(out) <= maxToken {
		return out
	}
	sum := sha256.Sum256([]byte(s))
	cut := maxToken - 17
	for i := 1; i <= 2; i++ { // not through an escape
		if out[cut-i] == '%' {
			cut -= i
			break
		}
	}
	return out[:cut] + "~" + hex.EncodeToString(sum[:8])
}

func unescape(token string) (string, error) {
	switch token {
	case "":
		return "", fmt.Errorf("empty token")
	case unknown:
		return "", nil
	}
	return percentDecode(token)
}

// percentDecode undoes percent-encoding; '+' stays what it is.
func percentDecode(s string) (string, error) {
	if !strings.Contains(s, "%") {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", fmt.Errorf("truncated escape in %.100q", s)
		}
		c, err := hex.DecodeString(s[i+1 : i+3])
		if err != nil {
			return "", fmt.Errorf("escape %q in %.100q: %w", s[i:i+3], s, err)
		}
		b = append(b, c[0])
		i += 2
	}
	return string(b), nil
}
