package sign

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestSkewOf(t *testing.T) {
	t.Parallel()
	asked := time.Date(2026, 11, 24, 12, 0, 0, 500e6, time.UTC)
	for _, tt := range []struct {
		date string // the service's, a whole second
		took time.Duration
		want time.Duration
	}{
		{"12:00:00", 200 * time.Millisecond, 0},
		{"12:00:01", 200 * time.Millisecond, -300 * time.Millisecond},
		{"12:00:05", 11 * time.Second, 0}, // somewhere on the way
		{"13:00:00", time.Second, -time.Hour + 1500*time.Millisecond},
		{"11:00:00", time.Second, time.Hour - 500*time.Millisecond},
		{"11:00:00", -3 * time.Hour, -2*time.Hour + 500*time.Millisecond}, // set back while it was asked
	} {
		date, err := time.Parse(time.TimeOnly, tt.date)
		if err != nil {
			t.Fatal(err)
		}
		date = date.AddDate(2026, 10, 23)
		if got := skewOf(date, asked, asked.Add(tt.took)); got != tt.want {
			t.Errorf("%s after %s: %s, want %s", tt.date, tt.took, got, tt.want)
		}
	}
}

// dated answers every request with a Date that is off by some time.
type dated struct{ off atomic.Int64 }

func (d *dated) RoundTrip(*http.Request) (*http.Response, error) {
	h := http.Header{"Date": {time.Now().Add(time.Duration(d.off.Load())).UTC().Format(http.TimeFormat)}}
	return &http.Response{StatusCode: http.StatusOK, Header: h, Body: io.NopCloser(strings.NewReader("ok"))}, nil
}

// TestClockIsTold: a service whose Date is not this machine's time is told once, with the difference and what to do; again
// only after a while, or when it has been right in between.
func TestClockIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		far := new(dated)
		u := &upstream{service: serviceTSA, base: far, timeout: time.Minute, expected: []int{200}, retries: new(atomic.Int64),
			clock: &clock{log: slog.New(slog.NewTextHandler(&log, nil))}, since: time.Now()}
		ask := func(off time.Duration, want int) {
			t.Helper()
			far.off.Store(int64(off))
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://tsa.test", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := u.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := strings.Count(log.String(), "this machine's clock"); got != want {
				t.Fatalf("told %d times, want %d:\n%s", got, want, log.String())
			}
		}
		ask(0, 0)
		ask(50*time.Second, 0)
		ask(-50*time.Second, 0)
		ask(3*time.Hour, 1)
		for _, want := range []string{"clock is behind", "service=tsa", "by=3h0m0s", "NTP"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("it does not say %q: %s", want, log.String())
			}
		}
		ask(3*time.Hour, 1)
		time.Sleep(skewEvery)
		ask(3*time.Hour, 2)
		ask(0, 2)
		ask(-2*time.Hour, 3)
		if !strings.Contains(log.String(), "clock is ahead of") {
			t.Error(log.String())
		}
	})
}
