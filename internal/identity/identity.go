// Package identity says who signs: it takes the environment that a process runs in (a CI job, a mounted file, a terminal)
// and gives OIDC identity tokens for the certificate authority (Fulcio).
//
// Tokens are credentials that live for minutes. So a Source is asked anew for every certificate, and a Token prints,
// logs and marshals as what it claims, never as itself. Claims are read without verifying them: they serve expiry checks
// and messages; whether the token is good is the certificate authority's decision.
package identity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
)

var (
	// ErrNoIdentity says that nothing in the environment gives an identity token.
	ErrNoIdentity = errors.New("no identity to sign with")
	// ErrExpired says that the token at hand is past its expiry; a new one must be put in its place.
	ErrExpired = errors.New("identity token has expired")
	// ErrMalformed says that what was found is not a JSON Web Token.
	ErrMalformed = errors.New("not an identity token (JWT)")
	// ErrRefused says that the token's provider answered, and refused to give one.
	ErrRefused = errors.New("identity token was refused by its provider")
	// ErrUnavailable says that the token's provider could not be reached or failed; it is worth asking again later.
	ErrUnavailable = errors.New("identity provider is unavailable")
)

// DefaultAudience is the audience that Sigstore's certificate authorities accept.
const DefaultAudience = "sigstore"

// Source gives identity tokens. Implementations are safe for concurrent use.
type Source interface {
	// Token returns a token that had not expired when it was obtained. Its errors match the package's sentinels where
	// one fits, and MUST NOT contain the token or the credential that it was asked with.
	Token(ctx context.Context) (Token, error)
	// String says where the tokens come from, for messages: "environment variable SIGSTORE_ID_TOKEN".
	String() string
}

// Token is an OIDC identity token with what it claims of itself, unverified.
type Token struct {
	// Raw is the token itself: a credential. It goes into a request's Authorization header and nowhere else.
	Raw      string
	Issuer   string    // the claim "iss"
	Subject  string    // the claim "sub"
	Email    string    // the claim "email"; "" if there is none
	Audience []string  // the claim "aud"
	Expiry   time.Time // the claim "exp"; zero if there is none
	Source   string    // the source's String
}

// String says whose token it is and how long it lives; never the token.
func (t Token) String() string {
	who := t.Email
	if who == "" {
		who = t.Subject
	}
	s := fmt.Sprintf("identity token of %q from %q", who, t.Issuer)
	if !t.Expiry.IsZero() {
		s += ", valid until " + t.Expiry.UTC().Format(time.RFC3339)
	}
	return s
}

// Format implements fmt.Formatter, so that no verb prints the fields (%d and %#v would ignore String).
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// LogValue implements slog.LogValuer.
func (t Token) LogValue() slog.Value {
	return slog.GroupValue(slog.String("issuer", t.Issuer), slog.String("subject", t.Subject),
		slog.String("email", t.Email), slog.Time("expiry", t.Expiry), slog.String("source", t.Source))
}

// MarshalText implements encoding.TextMarshaler, so that JSON, XML and YAML encoders do not reach the fields either.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Redact returns text with the token, and each part of it, replaced. It is for text that came back from a server
// which was given the token.
func (t Token) Redact(text string) string {
	if t.Raw == "" {
		return text
	}
	text = strings.ReplaceAll(text, t.Raw, redacted)
	for part := range strings.SplitSeq(t.Raw, ".") {
		if len(part) >= 8 { // shorter ones are no secret, and might be a word of the text
			text = strings.ReplaceAll(text, part, redacted)
		}
	}
	return text
}

const redacted = "[redacted]"

// parsed reads a token, checks that it has not expired, and names its source.
func parsed(raw string, source fmt.Stringer, now time.Time) (Token, error) {
	t, err := Parse(raw)
	if err != nil {
		return Token{}, fmt.Errorf("reading the token of %s: %w", source, err)
	}
	t.Source = source.String()
	if !t.Expiry.IsZero() && !now.Before(t.Expiry) {
		return Token{}, fmt.Errorf("the token of %s was valid until %s, and it is %s by this machine's clock: %w", source,
			t.Expiry.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), ErrExpired)
	}
	return t, nil
}
