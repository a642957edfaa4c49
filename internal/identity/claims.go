package identity

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"
)

// maxToken bounds a token's size in bytes. GitHub's are about 2 kB; HTTP servers refuse headers well below this.
const maxToken = 64 << 10

// Parse reads the claims of a JSON Web Token (RFC 7519, compact form) without verifying its signature. Blanks around it
// are dropped. Errors match ErrMalformed and never quote the token.
func Parse(raw string) (Token, error) {
	raw = strings.TrimSpace(raw)
	switch {
	case raw == "":
		return Token{}, fmt.Errorf("it is empty: %w", ErrMalformed)
	case len(raw) > maxToken:
		return Token{}, fmt.Errorf("it has %d bytes, more than %d: %w", len(raw), maxToken, ErrMalformed)
	case strings.ContainsFunc(raw, notCompact): // also keeps it from breaking out of the header that it goes into
		return Token{}, fmt.Errorf("it has characters that are not base64url: %w", ErrMalformed)
	case strings.Count(raw, ".") != 2:
		return Token{}, fmt.Errorf("it has not three parts: %w", ErrMalformed)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err != nil {
		return Token{}, fmt.Errorf("its claims are not base64url: %w", ErrMalformed)
	}
	// The decoder's errors quote what they could not read; so they are not passed on.
	var claims struct {
		Issuer   string          `json:"iss"`
		Subject  string          `json:"sub"`
		Email    string          `json:"email"`
		Audience json.RawMessage `json:"aud"`
		Expiry   *float64        `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return Token{}, fmt.Errorf("its claims are not a JSON object: %w", ErrMalformed)
	}
	t := Token{Raw: raw, Issuer: claims.Issuer, Subject: claims.Subject, Email: claims.Email}
	if t.Audience, err = audience(claims.Audience); err != nil {
		return Token{}, err
	}
	if e := claims.Expiry; e != nil {
		// Seconds since 1970, possibly with a fraction (RFC 7519, NumericDate); year 9999 is the last that prints.
		if *e < 0 || *e > 253402300799 {
			return Token{}, fmt.Errorf("its expiry is out of range: %w", ErrMalformed)
		}
		sec, frac := math.Modf(*e)
		t.Expiry = time.Unix(int64(sec), int64(frac*1e9)).UTC()
	}
	return t, nil
}

// audience reads the claim "aud": one string or an array of them (RFC 7519, section 4.1.3).
func audience(claim json.RawMessage) ([]string, error) {
	var one string
	var several []string
	switch {
	case len(claim) == 0 || string(claim) == "null":
		return nil, nil
	case json.Unmarshal(claim, &one) == nil:
		return []string{one}, nil
	case json.Unmarshal(claim, &several) == nil:
		return several, nil
	}
	return nil, fmt.Errorf("its audience is neither a string nor strings: %w", ErrMalformed)
}

func notCompact(r rune) bool {
	return !(r == '.' || r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z')
}
