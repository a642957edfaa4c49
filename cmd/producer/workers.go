package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hallmark-attest/hallmark/pipeline"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
	"github.com/hallmark-attest/hallmark/stages"
)

// workers adds what the workers of the campaign say to its segments.
func (s *summary) workers(c *pipeline.Campaign, a queue.Answers) error {
	segments, err := c.Segments(stages.Of(c))
	if err != nil {
		return err
	}
	s.WorkersUnread = a.Unread + len(a.Workers)
	for i, names := range segments {
		g := &s.Segments[i]
		g.Workers = []queue.WorkerStatus{}
		for _, w := range a.Workers {
			if w.Segment == g.Name {
				g.Workers = append(g.Workers, w)
			}
		}
		s.WorkersUnread -= len(g.Workers) // what is left is about segments that the campaign has not
		g.Stages = make([]queue.StageStatus, len(names))
		for k, name := range names {
			g.Stages[k] = sumStage(name, g.Workers)
		}
	}
	return nil
}

// sumStage is what the workers say of one stage together: the sum of their items, and the newest of their troubles. It
// lasts since the first error that no worker's success followed.
func sumStage(name string, workers []queue.WorkerStatus) queue.StageStatus {
	sum := queue.StageStatus{Name: name}
	var troubles []*queue.Trouble
	for _, w := range workers {
		for _, s := range w.Stages {
			if s.Name != name {
				continue
			}
			sum.Ready += s.Ready
			sum.Running += s.Running
			sum.Retrying += s.Retrying
			if s.LastDone.After(sum.LastDone) {
				sum.LastDone = s.LastDone
			}
			if s.Trouble != nil {
				troubles = append(troubles, s.Trouble)
			}
		}
	}
	if len(troubles) == 0 {
		return sum
	}
	t := *slices.MaxFunc(troubles, func(x, y *queue.Trouble) int { return x.At.Compare(y.At) })
	t.Since, t.NextTry = time.Time{}, time.Time{}
	first := func(a *time.Time, b time.Time) {
		if !b.IsZero() && (a.IsZero() || b.Before(*a)) {
			*a = b
		}
	}
	for _, x := range troubles {
		if x.Since.After(sum.LastDone) {
			first(&t.Since, x.Since)
		}
		first(&t.NextTry, x.NextTry)
		t.Paused = t.Paused || x.Paused
	}
	if sum.Retrying > 0 || !t.Since.IsZero() {
		sum.Trouble = &t
	}
	return sum
}

// status writes a segment. needed says that items of the campaign have this segment before them.
func (g *segment) status(w io.Writer, needed bool, now time.Time) {
	fmt.Fprintf(w, "  from %-8s %d pending, %d in flight, %d handed out more than once", g.Name, g.Pending, g.InFlight, g.Redelivered)
	if len(g.Workers) == 0 {
		fmt.Fprintln(w)
		if g.Workers != nil && needed {
			fmt.Fprintf(w, "    no worker serves segment %s: its items wait until one does\n", g.Name)
		}
		return
	}
	held := int64(0)
	for _, x := range g.Workers {
		held += x.InFlight
	}
	if len(g.Workers) == 1 {
		fmt.Fprintf(w, "; 1 worker holds %d\n", held)
	} else {
		fmt.Fprintf(w, "; %d workers hold %d\n", len(g.Workers), held)
	}
	width := 0
	for _, s := range g.Stages {
		width = max(width, len(s.Name))
	}
	for _, s := range g.Stages {
		fmt.Fprintf(w, "    %-*s  %s\n", width, s.Name, stageLine(s, now))
	}
}

// stageLine is what a stage does and what it waits for.
func stageLine(s queue.StageStatus, now time.Time) string {
	line := fmt.Sprintf("%d running", s.Running)
	if s.Ready > 0 {
		line += fmt.Sprintf(", %d waiting for a place", s.Ready)
	}
	if s.Retrying > 0 {
		line += fmt.Sprintf(", %d waiting to try again", s.Retrying)
	}
	t := s.Trouble
	if t == nil {
		return line
	}
	if t.Paused {
		line = "paused, " + line
	} else if s.Retrying == 0 {
		line += ", trouble"
	}
	line += ": " + cmp.Or(t.Message, "no message") + " (" + cmp.Or(t.Cause, "no cause") + ")"
	if !t.Since.IsZero() {
		format := "15:04:05Z"
		if now.Sub(t.Since) > 12*time.Hour {
			format = time.RFC3339
		}
		line += " since " + t.Since.UTC().Format(format)
	}
	if !t.NextTry.IsZero() {
		line += ", next try " + in(t.NextTry.Sub(now))
	}
	return line
}

// in says when something is due, rounded up to whole seconds.
func in(d time.Duration) string {
	n := (d + time.Second - 1) / time.Second
	switch {
	case n <= 0:
		return "now"
	case n < 120:
		return fmt.Sprintf("in %d s", n)
	}
	return "in " + (n * time.Second).String()
}
