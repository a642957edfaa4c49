package remote

import (
	"net/http"
	"testing"
	"time"
)

// FuzzRetryAfter: whatever a service wants, it is a wait from none to an hour.
func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "0", "120", "-1", "1e9", "4294967295", "99999999999999999999", " 3", "Tue, 24 Nov 2026 12:00:00 GMT",
		"Tuesday, 24-Nov-26 12:00:00 GMT", "Tue Nov 24 12:00:00 2026", "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT"} {
		f.Add(s)
	}
	now := time.Date(2026, 11, 24, 11, 59, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, v string) {
		after, said := RetryAfter(http.Header{"Retry-After": {v}}, now)
		if after < 0 || after > time.Hour || !said && after != 0 {
			t.Fatalf("%q: %s, %t", v, after, said)
		}
	})
}
