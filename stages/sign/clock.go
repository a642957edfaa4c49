package sign

import (
	"log/slog"
	"net/http"
	"sync"
	"time"
)

const (
	// skewTold is how far this machine's clock may be from a service's before it is told: certificates and tokens live for
	// minutes.
	skewTold = time.Minute
	// skewEvery is how often it is told again.
	skewEvery = 10 * time.Minute
)

// clock compares this machine's clock with those of the services that answer. The zero value is not usable: log is needed.
// It is safe for concurrent use.
type clock struct {
	log *slog.Logger

	mu   sync.Mutex
	told map[string]time.Time // by service, with the monotonic clock
}

// see takes an answer's Date and when it was asked for and came, and warns if that is not the time by this machine's clock.
// An answer without a Date that can be read says nothing.
func (c *clock) see(service string, h http.Header, asked, came time.Time) {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return
	}
	skew := skewOf(date, asked, came)
	c.mu.Lock()
	defer c.mu.Unlock()
	if skew.Abs() <= skewTold {
		delete(c.told, service)
		return
	}
	if last, ok := c.told[service]; ok && came.Sub(last) < skewEvery {
		return
	}
	if c.told == nil {
		c.told = map[string]time.Time{}
	}
	c.told[service] = came
	way := "ahead of"
	if skew < 0 {
		way = "behind"
	}
	c.log.Warn("this machine's clock is "+way+" a service's", "service", service, "by", skew.Abs().Round(time.Second),
		"hint", "set the clock of this machine, by NTP: tokens and certificates seem expired, or not valid yet, by a wrong one")
}

// skewOf is how far this machine's clock is ahead of the one that gave the date, at least. The date is a whole second, cut
// off, from somewhere between the two times.
func skewOf(date, asked, came time.Time) time.Duration {
	asked, came = asked.Round(0), came.Round(0) // by the wall clock
	if came.Before(asked) {                     // it was set back meanwhile
		asked = came
	}
	switch {
	case came.Before(date):
		return came.Sub(date)
	case asked.After(date.Add(time.Second)):
		return asked.Sub(date.Add(time.Second))
	}
	return 0
}
