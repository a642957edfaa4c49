package queue

import (
	"context"
	"testing"
	"time"
)

// What a process held that died together with its embedded server is handed out again at once, and signs of life count as
// long as before afterwards.
func TestOrphansOfADeadServerComeAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	i := open(t, dir, Options{})
	c := campaign("orphans")
	i.create(t, c)
	i.enqueue(t, c, items(20), EnqueueResult{Queued: 20})
	take(t, i.source(t, c, "hash", SourceOptions{}), 12)
	i.close()

	i = open(t, dir, Options{})
	i.died = true // as after a kill, which a test in this process cannot have
	began := time.Now()
	s := i.source(t, c, "hash", SourceOptions{})
	ds := take(t, s, 20)
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("handed out after %v", took)
	}
	again := 0
	for _, d := range ds {
		if d.Attempt > 1 {
			again++
		}
	}
	if again != 12 {
		t.Errorf("%d of 12 items handed out again", again)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if more, err := s.Next(ctx, 10); err == nil && len(more) > 0 {
			t.Errorf("%d items handed out once more, well before a minute is over", len(more))
		}
	}
	info, err := i.js.Consumer(t.Context(), StreamJobs, ConsumerName(c.Name, "hash"))
	if err != nil || info.CachedInfo().Config.AckWait != time.Minute {
		t.Errorf("%v, %+v", err, info.CachedInfo().Config)
	}
}
