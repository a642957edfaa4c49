package attest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// liveInterval is how old a trust root gets in a process that keeps it up to date, give or take a tenth.
	liveInterval = 24 * time.Hour
	// liveRetry is when it is tried again after a failure.
	liveRetry = time.Hour
	// livePause is how often at most what does not verify has the trust root fetched: anybody's bundle can cause it.
	livePause = time.Minute
	// liveTimeout bounds one fetch.
	liveTimeout = 2 * time.Minute
)

// Trust is what a Sigstore is trusted by and signed with at one time: a trust root, and the signing config that goes with
// it (nil where nobody signs). It does not change.
type Trust struct {
	Root          *TrustRoot
	SigningConfig *SigningConfig

	verifier *Verifier
}

// Fetch gets a trust root, and the signing config that goes with it or nil.
type Fetch func(context.Context) (*TrustRoot, *SigningConfig, error)

// LiveTrust keeps the trust of a process that lives for long: root and signing config are replaced as one, and only by
// what could be fetched, parsed and used as a whole; otherwise the old ones stay. It is safe for concurrent use.
type LiveTrust struct {
	fetch   Fetch
	current atomic.Pointer[Trust]

	mu    sync.Mutex
	going *refresh  // the fetch that is going on
	asked time.Time // when the last one ended
	fault error     // how, if badly
}

// refresh is one fetch that all who want it wait for.
type refresh struct {
	done      chan struct{}
	err       error // set before done is closed, as is abandoned
	abandoned bool  // the context of the caller that fetched ended, which says nothing about the next one
}

// NewLiveTrust fetches for the first time. Its errors are fetch's, or NewVerifier's.
func NewLiveTrust(ctx context.Context, fetch Fetch) (*LiveTrust, error) {
	l := &LiveTrust{fetch: fetch}
	t, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	l.current.Store(t)
	l.asked = time.Now()
	return l, nil
}

// FixedTrust is a LiveTrust that never changes.
func FixedTrust(r *TrustRoot, c *SigningConfig) (*LiveTrust, error) {
	return NewLiveTrust(context.Background(), func(context.Context) (*TrustRoot, *SigningConfig, error) { return r, c, nil })
}

// Current gives the trust of the moment. Whoever takes several steps takes it once.
func (l *LiveTrust) Current() *Trust { return l.current.Load() }

// Verifier gives a verifier that uses, for each bundle, the trust root of the moment.
func (l *LiveTrust) Verifier() *Verifier { return &Verifier{live: l} }

// Refresh fetches anew for somebody to whom found is not enough, and gives what is to be used now: found itself if there
// is nothing newer. It fetches once for all who ask at the same time, and not again within a minute; whoever asks within
// that gets the last answer. With an error, found stays good for what it is good for.
func (l *LiveTrust) Refresh(ctx context.Context, found *Trust) (*Trust, error) {
	for {
		l.mu.Lock()
		if t := l.Current(); t != found { // somebody was faster
			l.mu.Unlock()
			return t, nil
		}
		if r := l.going; r != nil {
			l.mu.Unlock()
			select {
			case <-r.done:
			case <-ctx.Done():
				return found, context.Cause(ctx)
			}
			if r.abandoned {
				continue
			}
			return l.Current(), r.err
		}
		if time.Since(l.asked) < livePause {
			defer l.mu.Unlock()
			return found, l.fault
		}
		r := &refresh{done: make(chan struct{})}
		l.going = r
		l.mu.Unlock()
		l.run(ctx, r)
		return l.Current(), r.err
	}
}

// run fetches for all who wait for r.
func (l *LiveTrust) run(ctx context.Context, r *refresh) {
	bounded, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	t, err := l.get(bounded)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && !t.same(l.Current()) {
		l.current.Store(t)
	}
	l.going, r.err, r.abandoned = nil, err, err != nil && ctx.Err() != nil
	if !r.abandoned {
		l.asked, l.fault = time.Now(), err
	}
	close(r.done)
}

// get fetches, and makes sure that what came can be used.
func (l *LiveTrust) get(ctx context.Context) (t *Trust, err error) {
	defer func() {
		if cause := recover(); cause != nil { // foreign parsers
			t, err = nil, fmt.Errorf("fetching the trust root panicked: %v", cause)
		}
	}()
	r, c, err := l.fetch(ctx)
	if err != nil {
		return nil, err
	}
	v, err := NewVerifier(r)
	if err != nil {
		return nil, err
	}
	if old := l.Current(); old != nil && old.SigningConfig != nil && c == nil {
		return nil, errors.New("the signing config is missing")
	}
	return &Trust{Root: r, SigningConfig: c, verifier: v}, nil
}

// same says whether two fetches gave the same bytes.
func (t *Trust) same(o *Trust) bool {
	if t.Root.SHA256 == "" || t.Root.SHA256 != o.Root.SHA256 || (t.SigningConfig == nil) != (o.SigningConfig == nil) {
		return t.Root == o.Root && t.SigningConfig == o.SigningConfig
	}
	if t.SigningConfig == nil {
		return true
	}
	return compact(t.SigningConfig) == compact(o.SigningConfig)
}

// compact is a signing config's JSON without the blanks that protobuf's encoder puts in at will.
func compact(c *SigningConfig) string {
	data, err := c.MarshalJSON()
	if err != nil {
		return fmt.Sprintf("%p", c) // like no other
	}
	var b bytes.Buffer
	if json.Compact(&b, data) != nil {
		return fmt.Sprintf("%p", c)
	}
	return b.String()
}

// Keep refreshes about once a day until ctx ends; after a failure in an hour, and says so. It is what a daemon runs beside
// its work.
func (l *LiveTrust) Keep(ctx context.Context, log *slog.Logger) {
	wait := liveInterval
	for {
		timer := time.NewTimer(wait - wait/10 + rand.N(wait/5)) // not all workers at once
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		old := l.Current()
		t, err := l.Refresh(ctx, old)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = liveRetry
			log.Warn("the trust root cannot be refreshed; the old one is used on", "error", err, "trusted_root", old.Root.SHA256, "next_try_in", wait)
		default:
			wait = liveInterval
			if t != old {
				log.Info("the trust root has changed", "trusted_root", t.Root.SHA256, "before", old.Root.SHA256)
			}
		}
	}
}

// VerifyLive is Verify for whoever can wait: where it fails for something that the trust root does not know, the trust root
// is fetched anew, if it can be, and if it has changed its word counts. An acceptance is never taken back.
func (v *Verifier) VerifyLive(ctx context.Context, bundle []byte, s Subject, p Policy) (*Result, error) {
	return v.again(ctx, func(v *Verifier) (*Result, error) { return v.Verify(bundle, s, p) })
}

// VerifyAnyLive is VerifyAny in the same way.
func (v *Verifier) VerifyAnyLive(ctx context.Context, bundle []byte, s Subject, p Policy) (*Result, error) {
	return v.again(ctx, func(v *Verifier) (*Result, error) { return v.VerifyAny(bundle, s, p) })
}

func (v *Verifier) again(ctx context.Context, verify func(*Verifier) (*Result, error)) (*Result, error) {
	if v.live == nil {
		return verify(v)
	}
	t := v.live.Current()
	r, err := verify(t.verifier)
	switch CodeOf(err) {
	case CodeLog, CodeTimestamp, CodeCertificate, CodeCertificateSCT:
	default:
		return r, err
	}
	fresh, refreshErr := v.live.Refresh(ctx, t)
	if fresh == t {
		if refreshErr != nil {
			err = fmt.Errorf("%w (and the trust root cannot be fetched anew: %w)", err, refreshErr)
		}
		return nil, err
	}
	return verify(fresh.verifier)
}

// Keep keeps the verifier's trust root up to date, as LiveTrust.Keep does, if it is a LiveTrust's.
func (v *Verifier) Keep(ctx context.Context, log *slog.Logger) {
	if v.live != nil {
		v.live.Keep(ctx, log)
	}
}

// now is the verifier for one call.
func (v *Verifier) now() *Verifier {
	if v.live != nil {
		return v.live.Current().verifier
	}
	return v
}
