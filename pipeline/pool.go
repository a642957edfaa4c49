package pipeline

import (
	"context"
	"slices"
	"sync"
)

// liveWeight is how much more of the places a campaign of the live lane has a claim to than another one.
const liveWeight = 8

// Pool parts a worker's places for items among the campaigns that it serves: so many items are in flight, with all
// campaigns together. A campaign that has items waiting has a claim to its fair part of them; what others do not claim it may
// have too, and gives it back as its items end. So no campaign starves another, and a small one of the live lane
// overtakes large ones. It is safe for concurrent use.
type Pool struct {
	total, floor int

	mu     sync.Mutex
	held   int
	shares []*Share
}

// NewPool makes a pool of total places. Beyond it, each campaign may always hold floor places: one whose items all wait for
// something that is out MUST NOT stop the others.
func NewPool(total, floor int) *Pool { return &Pool{total: total, floor: floor} }

// Share is one campaign's part of a Pool. One goroutine at a time may take places; any may give them back.
type Share struct {
	pool   *Pool
	weight int
	held   int
	hungry bool          // there are items for more places
	waits  chan struct{} // not nil while its goroutine waits; closed when it got a place
}

// Join adds a campaign, of the live lane if live.
func (p *Pool) Join(live bool) *Share {
	s := &Share{pool: p, weight: 1, hungry: true}
	if live {
		s.weight = liveWeight
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shares = append(p.shares, s)
	return s
}

// Leave takes the campaign out. It MUST hold no place.
func (s *Share) Leave() {
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shares = slices.DeleteFunc(p.shares, func(x *Share) bool { return x == s })
	p.serve()
}

// wants says whether there are items for more places. A nil share has places without end.
func (s *Share) wants(more bool) {
	if s == nil {
		return
	}
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.hungry = more
	s.pool.serve()
}

// take takes a place, and waits for one until ctx ends. It reports whether it has one.
func (s *Share) take(ctx context.Context) bool {
	if s == nil {
		return true
	}
	p := s.pool
	p.mu.Lock()
	if s.grant() {
		p.mu.Unlock()
		return true
	}
	got := make(chan struct{})
	s.waits = got
	p.mu.Unlock()
	select {
	case <-got:
		return true
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.waits == nil {
		return true // it came at the same moment
	}
	s.waits = nil
	return false
}

// try takes a place if there is one at once.
func (s *Share) try() bool {
	if s == nil {
		return true
	}
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	return s.grant()
}

// give gives a place back.
func (s *Share) give() {
	if s == nil {
		return
	}
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.held--
	s.pool.held--
	s.pool.serve()
}

// serve gives what is free to those that wait, the furthest below their fair part first. The caller holds the lock.
func (p *Pool) serve() {
	for {
		var next *Share
		for _, x := range p.shares {
			if x.waits != nil && (next == nil || x.held*next.weight < next.held*x.weight) {
				next = x
			}
		}
		if next == nil || !next.grant() {
			return
		}
		close(next.waits)
		next.waits = nil
	}
}

// grant takes a place if one is free that nobody else has a better claim to. The caller holds the lock.
func (s *Share) grant() bool {
	p := s.pool
	free := p.total - p.held
	if s.held >= p.floor && (free <= 0 || s.held >= p.fair(s) && free <= p.claimed(s)) {
		return false
	}
	s.held++
	p.held++
	return true
}

// fair is the part that the share has a claim to, among those that want more places and itself.
func (p *Pool) fair(s *Share) int {
	sum := 0
	for _, x := range p.shares {
		if x == s || x.claims() {
			sum += x.weight
		}
	}
	return p.total * s.weight / max(sum, 1)
}

// claimed is how many places others have a claim to and do not hold yet.
func (p *Pool) claimed(s *Share) int {
	n := 0
	for _, x := range p.shares {
		if x != s && x.claims() {
			n += max(p.fair(x)-x.held, 0)
		}
	}
	return n
}

func (s *Share) claims() bool { return s.hungry || s.waits != nil }
