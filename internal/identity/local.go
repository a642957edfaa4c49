package identity

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/hallmark-attest/hallmark/internal/remote"
)

// Static is a token that was given once, with a flag. It cannot be renewed.
type Static struct{ token, name string } // unexported, so that no encoder reaches the token

// NewStatic gives one token; the name says where it came from: "--identity-token".
func NewStatic(token, name string) *Static { return &Static{token: token, name: name} }

// Token returns the token while it is valid; afterwards ErrExpired.
func (s *Static) Token(context.Context) (Token, error) { return parsed(s.token, s, time.Now()) }

func (s *Static) String() string { return s.name }

// Format keeps the token out of whatever prints the source.
func (s *Static) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.name) }

// Variable reads an environment variable each time.
type Variable struct {
	Name string
	// Getenv defaults to os.Getenv.
	Getenv func(string) string
}

// Token returns the variable's token while it is valid; afterwards ErrExpired. A variable that is not set gives
// ErrNoIdentity.
func (v *Variable) Token(context.Context) (Token, error) {
	getenv := v.Getenv
	if getenv == nil {
		getenv = os.Getenv
	}
	raw := getenv(v.Name)
	if raw == "" {
		return Token{}, fmt.Errorf("%s is not set: %w", v, ErrNoIdentity)
	}
	return parsed(raw, v, time.Now())
}

func (v *Variable) String() string { return "environment variable " + v.Name }

// File reads a file each time, so that whoever mounted it may renew the token: a projected Kubernetes service account
// token, a file kept fresh by a CI system. It is safe for concurrent use.
type File struct {
	Path string

	// good is set once the file had a token that was good. From then on somebody is known to renew it, and for a file
	// that is late, or half written, it is worth waiting a little.
	good atomic.Bool
}

const (
	// filePatience is how long a file that has had a good token may have none, or one that is about to expire.
	filePatience = 5 * time.Second
	filePause    = 100 * time.Millisecond
	// fileMargin is what a token must have left, so that it is still good where it is sent.
	fileMargin = 3 * time.Second
)

// Token returns the file's token, or ErrExpired, ErrMalformed, ErrNoIdentity (no such file), or what the file system says.
// If the file has had a good token before, a token that is not good or expires within seconds is waited out for up to
// five seconds: it is about to be replaced.
func (f *File) Token(ctx context.Context) (Token, error) {
	start := time.Now()
	for {
		t, err := f.read()
		fresh := err == nil && (t.Expiry.IsZero() || time.Until(t.Expiry) >= fileMargin)
		if err == nil && !f.good.Swap(true) || fresh || !f.good.Load() || time.Since(start) >= filePatience {
			return t, err
		}
		if perr := remote.Pause(ctx, filePause); perr != nil {
			return Token{}, perr
		}
	}
}

func (f *File) read() (Token, error) {
	file, err := os.Open(f.Path)
	if os.IsNotExist(err) {
		return Token{}, fmt.Errorf("%s does not exist: %w", f, ErrNoIdentity)
	}
	if err != nil {
		return Token{}, fmt.Errorf("opening the identity token: %w", err)
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxToken+1))
	if err != nil {
		return Token{}, fmt.Errorf("reading the identity token: %w", err)
	}
	return parsed(string(raw), f, time.Now())
}

func (f *File) String() string { return "file " + f.Path }
