package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestNoMinuteHasMoreThanTheRate: workers that join, leave, die, are stopped, cut off, idle and busy, at random.
func TestNoMinuteHasMoreThanTheRate(t *testing.T) {
	t.Parallel()
	for _, rate := range []int64{1, 7, 60, 600, 3000} {
		for round := range 3 {
			t.Run(fmt.Sprintf("%d/%d", rate, round), func(t *testing.T) {
				t.Parallel()
				simulate(t, func(t *testing.T, s *sim) {
					s.rate("c", "rekor", rate)
					var ws []*simWorker
					for range 240 { // seconds, about
						time.Sleep(rand.N(2 * time.Second))
						pick := func() *simWorker { return ws[rand.N(len(ws))] }
						switch k := rand.N(12); {
						case len(ws) < 2 || k < 2 && len(ws) < 8:
							w := s.worker()
							w.demand("c", "rekor", 1+rand.N(30), time.Duration(rand.N(2))*(1+rand.N(200*time.Millisecond)))
							ws = append(ws, w)
						case k == 3:
							i := rand.N(len(ws))
							ws[i].leave()
							ws = append(ws[:i], ws[i+1:]...)
						case k == 4:
							i := rand.N(len(ws))
							ws[i].die()
							ws = append(ws[:i], ws[i+1:]...)
						case k < 8:
							pick().stop(rand.N(10 * time.Second))
						case k == 8:
							pick().setCut(true)
						case k == 9:
							pick().setCut(false)
						case k == 10:
							pick().idle()
						case k == 11:
							pick().demand("c", "rekor", 1+rand.N(30), rand.N(300*time.Millisecond))
						}
					}
					for _, w := range ws {
						w.leave()
					}
					all := s.all()
					if len(all) == 0 {
						t.Error("nothing was done at all")
					}
					if n := most(all, time.Minute); int64(n) > rate {
						t.Errorf("%d requests in one minute", n)
					}
				})
			})
		}
	}
}

// TestRateIsUsed: with steady demand, the rate is used, evenly, by one worker as by many, with callers that wait always and
// with few that come back soon, and each of many workers has its part.
func TestRateIsUsed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		rate           int64
		workers, users int
		takes          time.Duration
	}{
		{600, 1, 100, 0}, {600, 1, 4, 50 * time.Millisecond}, {600, 5, 100, 0}, {600, 5, 40, 3 * time.Second},
		{60, 1, 10, 0}, {60, 4, 10, 0}, {6000, 3, 500, 0}, {120, 30, 5, 0}, {6, 3, 5, 0}, {12000, 20, 50, 10 * time.Millisecond},
	} {
		t.Run(fmt.Sprintf("%d by %d", c.rate, c.workers), func(t *testing.T) {
			t.Parallel()
			simulate(t, func(t *testing.T, s *sim) {
				s.rate("c", "rekor", c.rate)
				begin := time.Now()
				var ws []*simWorker
				for range c.workers {
					ws = append(ws, s.worker())
					ws[len(ws)-1].demand("c", "rekor", c.users, c.takes)
				}
				time.Sleep(10 * time.Second)
				steady := time.Now()
				const minutes = 2
				time.Sleep(minutes * time.Minute)
				end := time.Now()
				writes := s.store.written()
				for _, w := range ws {
					w.leave()
				}
				all := s.all()
				if n := most(all, time.Minute); int64(n) > c.rate {
					t.Errorf("%d requests in one minute", n)
				}
				if n := between(all, steady, end); float64(n) < 0.9*minutes*float64(c.rate) {
					t.Errorf("%d requests in %d minutes: %.3f of the rate", n, minutes, float64(n)/minutes/float64(c.rate))
				}
				// Evenly: no two seconds have more than those of two and a half.
				if n := most(all, 2*time.Second); float64(n) > max(2, float64(c.rate)/60*4.5) {
					t.Errorf("%d requests in two seconds", n)
				}
				if per := float64(writes) / end.Sub(begin).Seconds() / float64(c.workers); per > 1.6 {
					t.Errorf("%.2f writes per worker and second", per)
				}
				if each := int(c.rate) * minutes / c.workers; each > 20 {
					for _, w := range ws {
						if n := s.count(w, steady); n < each*6/10 || n > each*14/10 {
							t.Errorf("%s made %d requests of %d", w.name, n, each)
						}
					}
				}
			})
		})
	}
}

// TestBudgetIsSplitAnew: whoever comes has its part within seconds, and the part of whoever goes, dies, is stopped or has
// nothing to do goes to the others within seconds.
func TestBudgetIsSplitAnew(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*simWorker){
		"leaves": (*simWorker).leave, "dies": (*simWorker).die, "idles": (*simWorker).idle,
		"is stopped": func(w *simWorker) { w.stop(time.Minute) },
		"is cut off": func(w *simWorker) { w.setCut(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			simulate(t, func(t *testing.T, s *sim) {
				s.rate("", "rekor", 1200) // 20 a second
				a, b := s.worker(), s.worker()
				a.demand("c", "rekor", 50, 0)
				time.Sleep(10 * time.Second)
				b.demand("d", "rekor", 50, 0)
				time.Sleep(5 * time.Second)
				since := time.Now()
				time.Sleep(10 * time.Second)
				na, nb := s.count(a, since), s.count(b, since)
				if nb < 65 || na < 65 {
					t.Errorf("five seconds after the second worker came, they make %d and %d requests in ten seconds; want about 95 each", na, nb)
				}
				end(b)
				time.Sleep(6 * time.Second)
				since = time.Now()
				time.Sleep(10 * time.Second)
				if n := s.count(a, since); n < 170 {
					t.Errorf("the other one makes %d requests in ten seconds; want about 190", n)
				}
				a.leave()
				b.leave()
			})
		})
	}
}

// TestRateIsChangedLive: what is lowered holds for what is granted from then on; what is raised or taken away is used within
// seconds; a budget where there was none is heard of within two seconds.
func TestRateIsChangedLive(t *testing.T) {
	t.Parallel()
	simulate(t, func(t *testing.T, s *sim) {
		w, x := s.worker(), s.worker()
		w.demand("c", "rekor", 20, 10*time.Millisecond)
		x.demand("c", "rekor", 20, 10*time.Millisecond)
		time.Sleep(5 * time.Second)
		if n := len(s.all()); n < 5000 {
			t.Errorf("without a budget, %d requests in five seconds", n)
		}
		s.rate("c", "rekor", 300)
		time.Sleep(2300 * time.Millisecond)
		for _, step := range []struct{ rate, least int64 }{{300, 40}, {60, 7}, {3000, 380}, {30, 3}, {600, 80}} {
			s.rate("c", "rekor", step.rate)
			time.Sleep(2 * time.Second) // tokens of before
			since := time.Now()
			time.Sleep(10 * time.Second)
			n := int64(between(s.all(), since, time.Now()))
			if n < step.least || n > step.rate/6+step.rate/40+1 {
				t.Errorf("%d requests in ten seconds at %d a minute", n, step.rate)
			}
		}
		s.rate("c", "rekor", 0)
		time.Sleep(2 * time.Second)
		since := time.Now()
		time.Sleep(time.Second)
		if n := between(s.all(), since, time.Now()); n < 1000 {
			t.Errorf("after the budget was taken away, %d requests in a second", n)
		}
		w.leave()
		x.leave()
	})
}

// TestServerClockSteps: a step of the server's clock costs a burst at most, and never stops work for longer than a minute.
func TestServerClockSteps(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{time.Hour, 5 * time.Second, -5 * time.Second, -time.Hour} {
		t.Run(step.String(), func(t *testing.T) {
			t.Parallel()
			simulate(t, func(t *testing.T, s *sim) {
				s.rate("c", "rekor", 600)
				var ws []*simWorker
				for range 3 {
					ws = append(ws, s.worker())
					ws[len(ws)-1].demand("c", "rekor", 50, 0)
				}
				time.Sleep(20 * time.Second)
				s.store.step(step)
				time.Sleep(90 * time.Second)
				since := time.Now()
				time.Sleep(20 * time.Second)
				for _, w := range ws {
					w.leave()
				}
				if n := most(s.all(), time.Minute); n > 630 {
					t.Errorf("%d requests in one minute", n)
				}
				if n := between(s.all(), since, time.Now()); n < 170 {
					t.Errorf("a minute and a half after the step, %d requests in 20 seconds", n)
				}
			})
		})
	}
}

// TestBothBudgetsHold: a campaign's and the deployment's, each for itself, and what one campaign may not use is there for
// the other.
func TestBothBudgetsHold(t *testing.T) {
	t.Parallel()
	simulate(t, func(t *testing.T, s *sim) {
		s.rate("", "rekor", 600)
		s.rate("small", "rekor", 60)
		small, large, mixed := s.worker(), s.worker(), s.worker()
		small.demand("small", "rekor", 100, 0)
		large.demand("large", "rekor", 100, 0)
		mixed.demand("small", "rekor", 100, 0)
		time.Sleep(20 * time.Second)
		since := time.Now()
		time.Sleep(2 * time.Minute)
		n := s.count(small, since) + s.count(mixed, since)
		if m := s.count(large, since); m < 2*440 {
			t.Errorf("the campaign without a budget made %d requests in two minutes, the other one %d", m, n)
		}
		if n < 2*50 || n > 2*60 {
			t.Errorf("the campaign with 60 a minute made %d requests in two minutes", n)
		}
		mixed.demand("large", "rekor", 100, 0) // both campaigns in one process
		time.Sleep(time.Minute)
		small.leave()
		large.leave()
		mixed.leave()
		if n := most(s.all(), time.Minute); n > 600 {
			t.Errorf("%d requests in one minute", n)
		}
	})
}

// TestNoContactNoTokens: without the server nothing is given, whether there was a budget or not, and the wait says why.
func TestNoContactNoTokens(t *testing.T) {
	t.Parallel()
	for _, rate := range []int64{0, 6000} {
		simulate(t, func(t *testing.T, s *sim) {
			s.rate("c", "rekor", rate)
			w := s.worker()
			w.demand("c", "rekor", 10, 10*time.Millisecond)
			time.Sleep(5 * time.Second)
			w.setCut(true)
			time.Sleep(6 * time.Second)
			since := time.Now()
			time.Sleep(time.Minute)
			if n := s.count(w, since); n > 0 {
				t.Errorf("%d requests without contact", n)
			}
			waits := w.Waiting()
			if len(waits) == 0 || waits[len(waits)-1].Err == nil || waits[len(waits)-1].Waiting != 10 {
				t.Errorf("the wait is told as %+v", waits)
			}
			w.setCut(false)
			since = time.Now()
			time.Sleep(3 * time.Second)
			if n := s.count(w, since); n == 0 {
				t.Error("no requests after the server is back")
			}
			w.leave()
		})
	}
}

// TestPauseIsForAll: after an upstream asked one worker for a pause, no worker makes requests.
func TestPauseIsForAll(t *testing.T) {
	t.Parallel()
	simulate(t, func(t *testing.T, s *sim) {
		s.rate("", "rekor", 600)
		a, b := s.worker(), s.worker()
		a.demand("c", "rekor", 10, 0)
		b.demand("d", "rekor", 10, 0)
		time.Sleep(5 * time.Second)
		a.Campaign("c").Pause("rekor", 20*time.Second)
		time.Sleep(2 * time.Second)
		since := time.Now()
		time.Sleep(17 * time.Second)
		if n := between(s.all(), since, time.Now()); n > 0 {
			t.Errorf("%d requests in the pause", n)
		}
		since = time.Now()
		time.Sleep(10 * time.Second)
		if n := between(s.all(), since, time.Now()); n < 60 {
			t.Errorf("%d requests in the ten seconds after", n)
		}
		a.leave()
		b.leave()
	})
}

// TestTakeInOrder: callers are served in the order in which they came, urgent ones first; one that gives up is no token lost.
func TestTakeInOrder(t *testing.T) {
	t.Parallel()
	simulate(t, func(t *testing.T, s *sim) {
		s.rate("c", "rekor", 6)
		w := s.worker()
		b := w.Campaign("c")
		if err := b.Wait(t.Context(), "rekor"); err != nil {
			t.Fatal(err)
		}
		var order []int
		take := func(ctx context.Context, i int, urgent bool) {
			s.wg.Go(func() {
				_, err := b.Take(ctx, urgent, "rekor")
				s.mu.Lock()
				defer s.mu.Unlock()
				if err != nil {
					i = -i
				}
				order = append(order, i)
			})
			time.Sleep(time.Millisecond)
		}
		short, cancel := context.WithTimeoutCause(t.Context(), 2*time.Second, errors.New("no longer wanted"))
		defer cancel()
		take(short, 1, false)
		take(t.Context(), 2, false)
		take(t.Context(), 3, false)
		take(t.Context(), 4, true)
		start := time.Now()
		s.wg.Wait()
		if fmt.Sprint(order) != "[-1 4 2 3]" {
			t.Errorf("served in the order %v", order)
		}
		if d := time.Since(start); d > 40*time.Second {
			t.Errorf("it took %v", d)
		}
		s.wg.Go(func() {
			if err := b.Wait(t.Context(), "rekor"); !errors.Is(err, errBudgetsClosed) {
				t.Errorf("waiting at the end: %v", err)
			}
		})
		time.Sleep(time.Second)
		w.Close()
		if _, err := b.Take(t.Context(), false, "rekor"); !errors.Is(err, errBudgetsClosed) {
			t.Errorf("taking after the end: %v", err)
		}
	})
}

// TestTwoUpstreamsAtOnce: tokens for both come together, so that none gets old while the other is waited for.
func TestTwoUpstreamsAtOnce(t *testing.T) {
	t.Parallel()
	simulate(t, func(t *testing.T, s *sim) {
		s.rate("c", "rekor", 60)
		s.rate("c", "timestamp", 120)
		w := s.worker()
		b := w.Campaign("c")
		deadline := time.Now().Add(time.Minute)
		done := 0
		for range 20 {
			s.wg.Go(func() {
				for time.Now().Before(deadline) {
					use, err := b.Take(t.Context(), false, "timestamp", "rekor")
					if err != nil || !use("timestamp") || !use("rekor") || use("rekor") {
						t.Errorf("permission is not there, or good for two: %v", err)
					}
					s.mu.Lock()
					done++
					s.mu.Unlock()
				}
			})
		}
		s.wg.Wait()
		if done < 54 {
			t.Errorf("%d in a minute", done)
		}
		// A permission gets old.
		use, err := b.Take(t.Context(), true, "rekor")
		time.Sleep(2100 * time.Millisecond)
		if err != nil || use("rekor") {
			t.Errorf("permission is good after two seconds (%v)", err)
		}
		w.Close()
	})
}

// lateAnswers is a store whose answers to writes come late.
type lateAnswers struct {
	*simStore
	delay time.Duration
}

func (l lateAnswers) put(ctx context.Context, key string, data []byte, revision uint64) error {
	err := l.simStore.put(ctx, key, data, revision)
	time.Sleep(l.delay) // also beyond ctx: the process is stopped
	return err
}

// TestLeaseCountsFromBeforeItsRequest: an answer that comes when the lease is over gives nothing.
func TestLeaseCountsFromBeforeItsRequest(t *testing.T) {
	t.Parallel()
	for delay, want := range map[time.Duration]bool{1500 * time.Millisecond: true, 2001 * time.Millisecond: false} {
		simulate(t, func(t *testing.T, s *sim) {
			s.rate("c", "rekor", 600)
			b := newBudgets(lateAnswers{s.store, delay}, "w", s.tempo, quiet)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := b.Campaign("c").Wait(ctx, "rekor"); (err == nil) != want {
				t.Errorf("answers that come after %v: %v", delay, err)
			}
			b.Close()
		})
	}
}

// TestWaitingIsTold: what a worker's callers wait for, and at what rate.
func TestWaitingIsTold(t *testing.T) {
	t.Parallel()
	simulate(t, func(t *testing.T, s *sim) {
		s.rate("", "rekor", 6)
		w := s.worker()
		w.demand("c", "rekor", 40, 0)
		w.demand("d", "timestamp", 40, 10*time.Millisecond) // has no budget
		time.Sleep(3 * time.Second)
		waits := w.Waiting()
		if len(waits) != 1 || waits[0].Waiting != 40 || waits[0].String() != "waiting for the budget of rekor for the deployment: 6/min" {
			t.Errorf("%+v", waits)
		}
		if n := w.WaitingByUpstream(); len(n) != 1 || n["rekor"] != 40 {
			t.Errorf("%v", n)
		}
		w.leave()
	})
}
