package queue

import (
	"cmp"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// hold is how long an item is this worker's alone: until the server has had no sign of life for its acknowledgement wait. A
// worker that was stopped or cut off for longer may have lost the item to another one, which does it again at the same time:
// it may add a second attestation after the first worker has published the item. If the first one then acknowledged the
// job, and the second one died before it could publish what it added, nobody would ever put that right. So a job whose hold
// has lapsed is not acknowledged by its first holder. It stays with the second one, or comes again, and is found done.
type hold struct {
	nc   *nats.Conn
	wait time.Duration

	mu     sync.Mutex
	last   time.Time // of a sign of life that can have reached the server
	lapsed bool
}

func newHold(nc *nats.Conn, wait time.Duration) *hold {
	return &hold{nc: nc, wait: wait, last: time.Now()}
}

// renew notes a sign of life that is being sent.
func (l *hold) renew() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lapsed = l.lapsed || time.Since(l.last) > l.wait
	if l.nc.IsConnected() {
		l.last = time.Now()
	}
}

// held reports whether nobody else can have the item.
func (l *hold) held() bool {
	if l == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.lapsed && time.Since(l.last) <= l.wait
}

// ackWait is the consumer's acknowledgement wait.
func (s *source) ackWait() time.Duration {
	return cmp.Or(s.cons.CachedInfo().Config.AckWait, time.Minute)
}
