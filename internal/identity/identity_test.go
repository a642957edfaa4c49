package identity

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// jwt makes a token with these claims and a signature that nobody checks.
func jwt(t testing.TB, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.RawURLEncoding
	return enc.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + enc.EncodeToString(payload) + "." +
		enc.EncodeToString([]byte("a signature that is long enough to be secret"))
}

func validJWT(t testing.TB) string {
	return jwt(t, map[string]any{"iss": "https://issuer.example", "sub": "repo:acme/feedstock:ref:refs/heads/main",
		"exp": time.Now().Add(5 * time.Minute).Unix()})
}

func TestParse(t *testing.T) {
	t.Parallel()
	claims := func(s string) string { return "aa." + base64.RawURLEncoding.EncodeToString([]byte(s)) + ".bb" }
	tests := []struct {
		name, raw string
		want      Token
		malformed string
	}{
		{name: "all claims", raw: " " + claims(`{"iss":"i","sub":"s","email":"e@x","exp":1700000000.5}`) + "\n",
			want: Token{Issuer: "i", Subject: "s", Email: "e@x", Expiry: time.Unix(1700000000, 5e8).UTC()}},
		{name: "one audience", raw: claims(`{"aud":"sigstore"}`), want: Token{Audience: []string{"sigstore"}}},
		{name: "audiences", raw: claims(`{"aud":["sigstore","x"]}`), want: Token{Audience: []string{"sigstore", "x"}}},
		{name: "audience null", raw: claims(`{"aud":null}`), want: Token{}},
		{name: "audience a number", raw: claims(`{"aud":7}`), malformed: "audience"},
		{name: "no expiry", raw: claims(`{"sub":"s"}`), want: Token{Subject: "s"}},
		{name: "expiry null", raw: claims(`{"exp":null}`), want: Token{}},
		{name: "empty", raw: " \n", malformed: "empty"},
		{name: "two parts", raw: "aa.bb", malformed: "three parts"},
		{name: "four parts", raw: "aa.bb.cc.dd", malformed: "three parts"},
		{name: "header injection", raw: "aa.bb\r\nX-Evil: 1.cc", malformed: "base64url"},
		{name: "bad base64", raw: "aa.b.cc", malformed: "base64url"},
		{name: "array", raw: claims(`[]`), malformed: "JSON object"},
		{name: "expiry text", raw: claims(`{"exp":"soon"}`), malformed: "JSON object"},
		{name: "expiry negative", raw: claims(`{"exp":-1}`), malformed: "range"},
		{name: "expiry huge", raw: claims(`{"exp":1e300}`), malformed: "range"},
		{name: "too long", raw: strings.Repeat("a", maxToken+1), malformed: "more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse(tt.raw)
			if tt.malformed != "" {
				if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), tt.malformed) {
					t.Fatalf("Parse = %v, want ErrMalformed with %q", err, tt.malformed)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tt.want.Raw = strings.TrimSpace(tt.raw)
			if diff := cmp.Diff(fields(tt.want), fields(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// fields makes a token comparable for cmp, which would call its methods.
func fields(t Token) map[string]string {
	return map[string]string{"raw": t.Raw, "iss": t.Issuer, "sub": t.Subject, "email": t.Email, "aud": strings.Join(t.Audience, " "), "exp": t.Expiry.String(), "source": t.Source}
}

func FuzzParse(f *testing.F) {
	f.Add(validJWT(f))
	f.Add("aa.e30.bb")
	f.Add("a.b.c\n")
	f.Add("..")
	f.Fuzz(func(t *testing.T, raw string) {
		tok, err := Parse(raw)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("unclassified error %v", err)
			}
			if raw = strings.TrimSpace(raw); len(raw) > 20 && strings.Contains(err.Error(), raw) {
				t.Fatalf("the error quotes the token: %v", err)
			}
			return
		}
		if strings.ContainsAny(tok.Raw, " \r\n\t") {
			t.Fatalf("token %q would break out of its header", tok.Raw)
		}
		if _, err := json.Marshal(tok.Expiry); err != nil {
			t.Fatalf("expiry does not print: %v", err)
		}
	})
}

// TestTokenNeverShowsItself prints a token and the sources that hold one in every way there is.
func TestTokenNeverShowsItself(t *testing.T) {
	t.Parallel()
	raw := validJWT(t)
	tok, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	github, err := NewGitHub("https://pipelines.example/token", raw, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, nil))
	text := slog.New(slog.NewTextHandler(&out, nil))
	for _, v := range []any{tok, &tok, []Token{tok}, struct{ T Token }{tok}, NewStatic(raw, "flag"), github} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		log.Info("x", "v", v)
		text.Info("x", "v", v)
		// Sources are never marshalled; tokens might be, inside something else.
		switch v.(type) {
		case Token, *Token, []Token, struct{ T Token }:
			if err := json.NewEncoder(&out).Encode(v); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, part := range strings.Split(raw, ".") {
		for _, secret := range []string{part, fmt.Sprintf("%x", part)} {
			if strings.Contains(out.String(), secret) {
				t.Errorf("output contains %q", secret)
			}
		}
	}
	if !strings.Contains(out.String(), "repo:acme/feedstock") {
		t.Error("the output does not say whose token it is, so this test sees nothing")
	}
}

func TestRedact(t *testing.T) {
	t.Parallel()
	raw := validJWT(t)
	tok := Token{Raw: raw}
	parts := strings.Split(raw, ".")
	got := tok.Redact("bad token " + raw + ", payload " + parts[1])
	if want := "bad token [redacted], payload [redacted]"; got != want {
		t.Errorf("Redact = %q, want %q", got, want)
	}
	if got := (Token{}).Redact("as it was"); got != "as it was" {
		t.Errorf("Redact of no token = %q", got)
	}
}

func TestStaticAndVariableExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw := validJWT(t)
		for _, s := range []Source{
			NewStatic(raw, "flag"),
			&Variable{Name: "SIGSTORE_ID_TOKEN", Getenv: func(string) string { return raw }},
		} {
			tok, err := s.Token(t.Context())
			if err != nil || tok.Raw != raw || tok.Source != s.String() || tok.Subject == "" {
				t.Fatalf("%s: %v, %v", s, tok, err)
			}
		}
		time.Sleep(5 * time.Minute) // the bubble's clock
		for _, s := range []Source{
			NewStatic(raw, "flag"),
			&Variable{Name: "SIGSTORE_ID_TOKEN", Getenv: func(string) string { return raw }},
		} {
			_, err := s.Token(t.Context())
			if !errors.Is(err, ErrExpired) || !strings.Contains(err.Error(), s.String()) {
				t.Errorf("%s: %v, want ErrExpired naming the source", s, err)
			}
			if err != nil && strings.Contains(err.Error(), raw) {
				t.Errorf("the error holds the token: %v", err)
			}
		}
	})
}

func TestFileIsReadEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &File{Path: filepath.Join(t.TempDir(), "token")}
		if _, err := f.Token(t.Context()); !errors.Is(err, ErrNoIdentity) {
			t.Errorf("missing file: %v, want ErrNoIdentity", err)
		}
		for _, sub := range []string{"first", "second"} {
			if err := os.WriteFile(f.Path, []byte(jwt(t, map[string]any{"sub": sub})+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			tok, err := f.Token(t.Context())
			if err != nil || tok.Subject != sub {
				t.Errorf("Token = %v, %v, want subject %s", tok, err, sub)
			}
		}
		if err := os.WriteFile(f.Path, bytes.Repeat([]byte("a"), 2*maxToken), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Token(t.Context()); !errors.Is(err, ErrMalformed) {
			t.Errorf("huge file: %v, want ErrMalformed", err)
		}
	})
}
