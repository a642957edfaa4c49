package command

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// Progress shows how a run gets on: bars on a terminal, else one plain line per interval. It is a pipeline.Observer.
type Progress struct {
	stages  []string
	done    map[string]*atomic.Int64 // items that left the stage well
	took    map[string]*atomic.Int64 // nanoseconds that they spent in it, together
	settled map[pipeline.OutcomeKind]*atomic.Int64
	total   int64
	waiting atomic.Pointer[string] // the last transient error, while it lasts
	began   time.Time

	bars  *mpb.Progress
	bar   map[string]*mpb.Bar
	stop  chan struct{}
	ended sync.WaitGroup
}

// plainInterval is how often a run without a terminal says where it is.
const plainInterval = 10 * time.Second

// NewProgress starts showing the progress of total items through the stages on w. Close ends it. With terminal unset it
// writes plain lines; with w nil it only counts.
func NewProgress(w io.Writer, terminal bool, stages []string, total int) *Progress {
	p := &Progress{stages: stages, total: int64(total), done: map[string]*atomic.Int64{}, took: map[string]*atomic.Int64{}, settled: map[pipeline.OutcomeKind]*atomic.Int64{},
		began: time.Now(), stop: make(chan struct{})}
	for _, s := range stages {
		p.done[s], p.took[s] = new(atomic.Int64), new(atomic.Int64)
	}
	for _, k := range []pipeline.OutcomeKind{pipeline.OutcomePublished, pipeline.OutcomeSkipped, pipeline.OutcomeFailed, pipeline.OutcomeCrossed} {
		p.settled[k] = new(atomic.Int64)
	}
	switch {
	case w == nil:
	case terminal:
		p.draw(w)
	default:
		p.ended.Go(func() { p.lines(w) })
	}
	return p
}

func (p *Progress) draw(w io.Writer) {
	p.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(48), mpb.WithAutoRefresh())
	p.bar = map[string]*mpb.Bar{}
	for _, s := range p.stages {
		p.bar[s] = p.bars.New(p.total, mpb.BarStyle().Rbound("|").Lbound("|"),
			mpb.PrependDecorators(decor.Name(s, decor.WC{W: 8, C: decor.DindentRight})),
			mpb.AppendDecorators(decor.CountersNoUnit("%d/%d", decor.WC{W: 14})))
	}
	p.bar["done"] = p.bars.New(p.total, mpb.BarStyle().Rbound("|").Lbound("|"),
		mpb.PrependDecorators(decor.Name("done", decor.WC{W: 8, C: decor.DindentRight})),
		mpb.AppendDecorators(decor.CountersNoUnit("%d/%d", decor.WC{W: 14}), decor.Any(func(decor.Statistics) string {
			return "  " + p.asides()
		})))
}

// lines writes one line per interval until Close.
func (p *Progress) lines(w io.Writer) {
	t := time.NewTicker(plainInterval)
	defer t.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-t.C:
			fmt.Fprintln(w, p.line())
		}
	}
}

func (p *Progress) line() string {
	var n int64
	for _, c := range p.settled {
		n += c.Load()
	}
	var at []string
	for _, s := range p.stages {
		at = append(at, fmt.Sprintf("%s %d", s, p.done[s].Load()))
	}
	line := fmt.Sprintf("%d of %d done (%s)", n, p.total, strings.Join(at, ", "))
	if rate := float64(n) / time.Since(p.began).Seconds(); rate > 0 {
		line += fmt.Sprintf(", %.1f/s", rate)
	}
	if a := p.asides(); a != "" {
		line += ", " + a
	}
	return line
}

// asides is what is neither done well nor waiting its turn.
func (p *Progress) asides() string {
	var out []string
	if n := p.settled[pipeline.OutcomeSkipped].Load(); n > 0 {
		out = append(out, fmt.Sprintf("%d skipped", n))
	}
	if n := p.settled[pipeline.OutcomeFailed].Load(); n > 0 {
		out = append(out, fmt.Sprintf("%d set aside", n))
	}
	if s := p.waiting.Load(); s != nil {
		out = append(out, *s)
	}
	return strings.Join(out, ", ")
}

// StageDone implements pipeline.Observer.
func (p *Progress) StageDone(_ context.Context, stage string, _ *pipeline.Item, took time.Duration, err *pipeline.Error) {
	if err != nil {
		return
	}
	p.waiting.Store(nil)
	p.done[stage].Add(1)
	p.took[stage].Add(int64(took))
	if b := p.bar[stage]; b != nil {
		b.Increment()
	}
}

// Retrying implements pipeline.Observer.
func (p *Progress) Retrying(_ context.Context, stage string, _ *pipeline.Item, err *pipeline.Error, _ time.Duration) {
	s := stage + " waits: " + err.Cause
	p.waiting.Store(&s)
}

// Settled implements pipeline.Observer.
func (p *Progress) Settled(o pipeline.Outcome) {
	p.settled[o.Kind].Add(1)
	if b := p.bar["done"]; b != nil {
		b.Increment()
	}
}

// StageTime is what a run spent in a stage.
type StageTime struct {
	Name string  `json:"name"`
	Done int64   `json:"done"`        // items that the stage is done with
	Mean float64 `json:"meanSeconds"` // in the stage, an item on average, waiting in its batches included
}

// Stages returns what was spent in each stage so far, in order.
func (p *Progress) Stages() []StageTime {
	var out []StageTime
	for _, s := range p.stages {
		t := StageTime{Name: s, Done: p.done[s].Load()}
		if t.Done > 0 {
			t.Mean = time.Duration(p.took[s].Load() / t.Done).Seconds()
		}
		out = append(out, t)
	}
	return out
}

// Close ends the display; what is drawn stays.
func (p *Progress) Close() {
	close(p.stop)
	if p.bars != nil {
		for _, b := range p.bar {
			b.Abort(false) // a bar that is not full must not be waited for
		}
		p.bars.Wait()
	}
	p.ended.Wait()
}
