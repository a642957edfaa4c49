package sign

import (
	"errors"
	"strings"
	"testing"

	"github.com/hallmark-attest/hallmark/pipeline"
)

func wantError(t *testing.T, err error, kind pipeline.Kind, cause string) {
	t.Helper()
	e, ok := errors.AsType[*pipeline.Error](err)
	if !ok || e.Kind != kind || e.Cause != cause {
		t.Errorf("error %#v: %v\nwant kind %s, cause %s", e, err, kind, cause)
	}
}

// noSecret looks for a token, and for its parts, in an error's texts, at every depth.
func noSecret(t *testing.T, err error, token string) {
	t.Helper()
	var walk func(error)
	walk = func(err error) {
		if err == nil {
			return
		}
		for _, part := range append(strings.Split(token, "."), token) {
			if strings.Contains(err.Error(), part) {
				t.Errorf("the error shows the token: %v", err)
			}
		}
		if u := errors.Unwrap(err); u != nil {
			walk(u)
		}
		if m, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range m.Unwrap() {
				walk(e)
			}
		}
	}
	walk(err)
}
