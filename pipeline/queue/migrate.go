package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// settleTick is how often Migrate asks whether new replicas have caught up.
const settleTick = 250 * time.Millisecond

// Migrate creates what is missing, changes what can be changed in place to what this version wants, and waits until every
// replica has caught up. Workers and producers may go on meanwhile. No message is removed by it: a change that would, or
// that needs a new stream, is left alone, and the report says so; so it is for a change that the server refuses. Running it
// again completes it, and changes nothing where nothing is left to do.
//
// The report is what Check finds afterwards, with what was Created and Changed. An error comes with a nil report, except
// where ctx ended while replicas were catching up: then the changes are made, and the report has who is behind.
func Migrate(ctx context.Context, nc *Conn, o Options) (*Report, error) {
	q, err := attach(nc, o)
	if err != nil {
		return nil, err
	}
	found, err := q.survey(ctx, o)
	if err != nil {
		return nil, err
	}
	type key struct{ kind, name string }
	created := map[key]bool{}
	refused := map[key]map[string]string{} // of a setting: the server's answer
	before := map[key][]Finding{}
	for _, s := range found {
		k := key{s.kind, s.name}
		if s.info == nil {
			if err := q.create(ctx, s.asset); err != nil {
				return nil, err
			}
			q.log.InfoContext(ctx, "created", "asset", s.want.Name)
			created[k] = true
			continue
		}
		for _, c := range s.changes {
			before[k] = append(before[k], Finding{Difference: c.Difference})
		}
		if refused[k], err = q.change(ctx, s); err != nil {
			return nil, err
		}
	}
	consumers, err := q.consumers(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range consumers {
		k := key{AssetConsumer, c.Name}
		for _, ch := range consumerChanges(c.Config, c.campaign, c.segment) {
			before[k] = append(before[k], Finding{Difference: ch.Difference, After: ch.after})
		}
		if refused[k], err = q.changeConsumer(ctx, c); err != nil {
			return nil, err
		}
	}
	waited := q.settle(ctx)
	// The changes are made: what they led to is worth a last look, even where the wait was cut short.
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*q.timeout)
	defer cancel()
	r, err := q.check(cctx, o)
	if err != nil {
		return nil, cmp.Or(waited, err)
	}
	for i := range r.Assets {
		a := &r.Assets[i]
		k := key{a.Kind, a.Name}
		a.Created = created[k]
		left := map[string]bool{}
		for j := range a.Findings {
			f := &a.Findings[j]
			f.Error = refused[k][f.Setting]
			left[f.Setting] = true
		}
		for _, f := range before[k] {
			if !left[f.Setting] {
				a.Changed = append(a.Changed, f)
			}
		}
	}
	return r, waited
}

func (q *Queue) create(ctx context.Context, a asset) (err error) {
	if a.kind == AssetBucket {
		_, err = q.ensureBucket(ctx, a.bucket)
		return err
	}
	return q.ensureStream(ctx, a.want)
}

// change makes the changes of a stream that can be made, all at once, or one by one where the server refuses them together.
// It returns the server's answers to those that it refuses.
func (q *Queue) change(ctx context.Context, s surveyed) (map[string]string, error) {
	todo := slices.DeleteFunc(slices.Clone(s.changes), func(c change) bool { return c.set == nil })
	refused := map[string]string{}
	update := func(cs []change) error {
		// Freshly read, so that what somebody else has changed meanwhile stays.
		now, err := q.js.Stream(ctx, s.want.Name)
		if err != nil {
			return err
		}
		cfg := now.CachedInfo().Config
		for _, c := range cs {
			c.set(&cfg)
		}
		_, err = q.js.UpdateStream(ctx, cfg)
		return err
	}
	return refused, eachOrAll(todo, update, func(cs []change, err error) {
		for _, c := range cs {
			if err != nil {
				refused[c.Setting] = err.Error()
				continue
			}
			q.log.InfoContext(ctx, "changed", "stream", s.want.Name, "setting", c.Setting, "from", c.Have, "to", c.Want)
		}
	}, "changing stream "+s.want.Name)
}

// changeConsumer is change, for a consumer.
func (q *Queue) changeConsumer(ctx context.Context, c consumer) (map[string]string, error) {
	todo := slices.DeleteFunc(consumerChanges(c.Config, c.campaign, c.segment), func(c consumerChange) bool { return c.set == nil })
	refused := map[string]string{}
	update := func(cs []consumerChange) error {
		now, err := q.js.Consumer(ctx, StreamJobs, c.Name)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			return nil // its campaign was closed meanwhile
		}
		if err != nil {
			return err
		}
		cfg := now.CachedInfo().Config
		for _, c := range cs {
			c.set(&cfg)
		}
		_, err = q.js.UpdateConsumer(ctx, StreamJobs, cfg)
		return err
	}
	return refused, eachOrAll(todo, update, func(cs []consumerChange, err error) {
		for _, ch := range cs {
			if err != nil {
				refused[ch.Setting] = err.Error()
				continue
			}
			q.log.InfoContext(ctx, "changed", "consumer", c.Name, "setting", ch.Setting, "from", ch.Have, "to", ch.Want)
		}
	}, "changing consumer "+c.Name)
}

// eachOrAll makes all changes at once, and each for itself where the server refuses that. Its error is another one than a
// refusal.
func eachOrAll[T any](todo []T, update func([]T) error, done func([]T, error), doing string) error {
	if len(todo) == 0 {
		return nil
	}
	err := update(todo)
	_, refusal := errors.AsType[*jetstream.APIError](err)
	switch {
	case err == nil:
		done(todo, nil)
	case !refusal:
		return fmt.Errorf("%s: %w", doing, err)
	case len(todo) == 1:
		done(todo, err)
	default:
		for _, c := range todo {
			if err := eachOrAll([]T{c}, update, done, doing); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle waits until every replica of every stream and of every consumer has been seen to have all, once: where items move,
// they are never all level at the same moment. The server gives a consumer its replicas some time after its stream; a server
// that is lost in between takes the consumer with it.
func (q *Queue) settle(ctx context.Context) error {
	told := time.Time{}
	level := map[string]bool{}
	for {
		late := q.late(ctx, level)
		if len(late) == 0 {
			return nil
		}
		if ctx.Err() == nil && time.Since(told) > 5*time.Second {
			q.log.InfoContext(ctx, "waiting for replicas to catch up", "behind", strings.Join(late, "; "))
			told = time.Now()
		}
		select {
		case <-time.After(settleTick):
		case <-ctx.Done():
			return fmt.Errorf("waiting for replicas to catch up (%s): %w", strings.Join(late, "; "), ctx.Err())
		}
	}
}

// late are the streams and consumers with replicas that have not caught up, and those that cannot be asked, as it is while
// a leader is elected. Those that have are noted in level, and are not late any more.
func (q *Queue) late(ctx context.Context, level map[string]bool) []string {
	var late []string
	check := func(name string, cl *jetstream.ClusterInfo, replicas int) {
		if b := behind(cl, replicas); len(b) == 0 {
			level[name] = true
		} else if !level[name] {
			late = append(late, name+" on "+strings.Join(b, ", "))
		}
	}
	jobs := 0 // replicas
	for _, a := range assets(Options{}) {
		if level[a.want.Name] && a.want.Name != StreamJobs {
			continue
		}
		s, err := q.js.Stream(ctx, a.want.Name)
		if err != nil {
			late = append(late, a.want.Name+": "+err.Error())
			continue
		}
		info := s.CachedInfo()
		if a.want.Name == StreamJobs {
			jobs = info.Config.Replicas
		}
		check(a.want.Name, info.Cluster, info.Config.Replicas)
	}
	consumers, err := q.consumers(ctx)
	if err != nil {
		return append(late, err.Error())
	}
	for _, c := range consumers {
		check("consumer "+c.Name, c.Cluster, cmp.Or(c.Config.Replicas, jobs))
	}
	return late
}
