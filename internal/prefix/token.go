package prefix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
)

// Token is a bearer token of the server. Printed, logged or marshalled, it does not show itself.
type Token struct{ raw string }

// NewToken takes a token as it stands in a file, a variable or an answer; white space around it is dropped. Its error does
// not show it.
func NewToken(raw string) (Token, error) {
	raw = strings.TrimSpace(raw)
	switch {
	case raw == "":
		return Token{}, errors.New("it is empty")
	case len(raw) > maxToken:
		return Token{}, fmt.Errorf("it is longer than %d bytes", maxToken)
	}
	for i := range len(raw) {
		if c := raw[i]; c <= ' ' || c > '~' {
			return Token{}, errors.New("it has blanks, control characters or characters that are not ASCII in it")
		}
	}
	return Token{raw}, nil
}

const maxToken = 16 << 10

// String hides the token.
func (Token) String() string { return "token " + redacted }

// Format implements fmt.Formatter, so that no verb prints the field.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// LogValue implements slog.LogValuer.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText implements encoding.TextMarshaler.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// redact takes the token out of a text.
func (t Token) redact(text string) string {
	if t.raw == "" {
		return text
	}
	return strings.ReplaceAll(text, t.raw, redacted)
}

// TokenSource gives tokens of the server. Implementations are safe for concurrent use.
type TokenSource interface {
	// Token gives a token. refused, unless it is zero, is one that the server answered 401 to, and MUST NOT be given again.
	// An error that is for good matches ErrIdentity.
	Token(ctx context.Context, refused Token) (Token, error)
	// String says where the tokens come from, for messages.
	String() string
}

// File is an API token in a file, read anew each time, so that it may be replaced while a campaign runs.
type File struct{ Path string }

// String implements TokenSource.
func (f *File) String() string { return "API token file " + f.Path }

// Token implements TokenSource.
func (f *File) Token(_ context.Context, refused Token) (Token, error) {
	h, err := os.Open(f.Path)
	if err != nil {
		return Token{}, fmt.Errorf("reading the API token: %w: %w", ErrIdentity, err)
	}
	defer h.Close()
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.LimitReader(h, 2*maxToken)); err != nil {
		return Token{}, fmt.Errorf("reading the API token: %w: %w", ErrIdentity, err)
	}
	return given(f, b.String(), refused)
}

// Variable is an API token in a variable of the environment.
type Variable struct {
	Name   string
	Getenv func(string) string // defaults to os.Getenv
}

// String implements TokenSource.
func (v *Variable) String() string { return "environment variable " + v.Name }

// Token implements TokenSource.
func (v *Variable) Token(_ context.Context, refused Token) (Token, error) {
	getenv := v.Getenv
	if getenv == nil {
		getenv = os.Getenv
	}
	return given(v, getenv(v.Name), refused)
}

func given(source fmt.Stringer, raw string, refused Token) (Token, error) {
	t, err := NewToken(raw)
	if err != nil {
		return Token{}, fmt.Errorf("reading the token of %s: %w: %w", source, ErrIdentity, err)
	}
	if t == refused {
		return Token{}, fmt.Errorf("the token of %s was refused, and there is no other: %w", source, ErrIdentity)
	}
	return t, nil
}
