package queue

import "time"

// serverClock gives lower bounds of the server's time: what was stamped with T was stamped before it was read, and since
// then this process's monotonic clock has gone on. Wall clocks have no part in it.
type serverClock struct {
	stamp time.Time // by the server's clock
	read  time.Time // when it was read, by ours
	own   time.Time // when it was last read what had only just been stamped

	revision uint64 // the newest that was seen, of the bucket
	newest   time.Time
}

// observe takes the stamp of a revision that was read at a time. The best bound is kept for ten periods at most, and not
// beyond a revision that was stamped with an earlier time than one before it: the server's clock has gone back. fresh says
// that it was stamped a moment ago, and so is better than what is kept.
func (c *serverClock) observe(t tempo, revision uint64, stamp, read time.Time, fresh bool) {
	back := false
	if revision > c.revision {
		back = stamp.Before(c.newest)
		c.revision, c.newest = revision, stamp
	}
	if fresh {
		c.own = read
	}
	if fresh || back || c.read.IsZero() || read.Sub(c.read) > 10*t.period || stamp.UnixNano() > c.at(read) {
		c.stamp, c.read = stamp, read
	}
}

// at is a lower bound of the server's time at our time now, in Unix nanoseconds.
func (c *serverClock) at(now time.Time) int64 {
	return c.stamp.UnixNano() + max(int64(now.Sub(c.read)), 0)
}

// certain says that the bound is close.
func (c *serverClock) certain(t tempo, now time.Time) bool {
	return !c.own.IsZero() && now.Sub(c.own) < 5*t.period
}
