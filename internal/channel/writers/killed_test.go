package writers_test

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/store"
)

// process is a writer that announces its writes.
type process struct {
	cmd  *exec.Cmd
	said bytes.Buffer // on standard error

	wait func() error // for the end; an error is the writer's own failure

	mu    sync.Mutex
	heard *sync.Cond
	lines int
	last  string
	ended bool
}

func (o order) start(t *testing.T) *process {
	t.Helper()
	p := &process{cmd: o.command(t)}
	p.heard = sync.NewCond(&p.mu)
	p.wait = sync.OnceValue(p.reap)
	p.cmd.Stderr = &p.said
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the process; wait waits for it
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.hear(lines.Text(), false)
		}
		p.hear("", true)
	}()
	return p
}

func (p *process) hear(line string, end bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !end {
		p.lines++
		p.last = line
	}
	p.ended = p.ended || end
	p.heard.Broadcast()
}

// listen waits until the process has said n lines more. It gives the last one, and false if the process has ended by then.
func (p *process) listen(n int) (last string, alive bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for until := p.lines + n; p.lines < until && !p.ended; {
		p.heard.Wait()
	}
	return p.last, !p.ended
}

func (p *process) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

func (p *process) reap() error {
	p.mu.Lock()
	for !p.ended {
		p.heard.Wait()
	}
	p.mu.Unlock()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%w\n%.4000s", err, p.said.String())
	}
	return nil
}

// kill ends it at once. killed is false if it had ended by itself, in which case err is how.
func (p *process) kill() (killed bool, err error) {
	_ = p.cmd.Process.Kill()
	err = p.wait()
	if p.cmd.ProcessState.String() == "signal: killed" {
		return true, nil
	}
	return false, err
}

// TestKilledWriters has three processes write into one directory and kills one of them again and again. Readers never see
// anything broken, and doing the work again completes it.
func TestKilledWriters(t *testing.T) {
	t.Parallel()
	t.Run("DocumentsAtOnce", func(t *testing.T) { t.Parallel(); killWriters(t, 0) })
	t.Run("DocumentsByMonolith", func(t *testing.T) { t.Parallel(); killWriters(t, -1) })
}

func killWriters(t *testing.T, small int64) {
	const writers = 3
	kills := number(t, "HALLMARK_KILLS", 15)
	seed := chance(t)
	rng := rand.New(rand.NewPCG(seed, uint64(small)))
	dir := t.TempDir()
	// A generation is a work list. A writer that was killed begins its own again; one that has done it goes on to the next.
	list := func(generation int) plan {
		return plan{Writers: writers, Packages: 48, Least: 4, Most: 8, Generation: generation, Seed: seed}
	}
	orders := make([]order, writers)
	for w := range orders {
		orders[w] = order{Writer: w, Plans: []plan{list(0)}, Dir: dir, Small: small, Last: true, Announce: true}
	}
	running := make([]*process, writers)
	defer func() {
		for _, p := range running {
			if p != nil {
				_, _ = p.kill()
			}
		}
	}()
	next := func(w int) {
		if err := running[w].wait(); err != nil {
			t.Fatalf("writer %d: %v", w, err)
		}
		orders[w].Plans = []plan{list(orders[w].Plans[0].Generation + 1)}
		running[w] = nil
	}
	r := &reader{dir: dir}
	struck := map[string]int{}
	for n := 0; n < kills; {
		for w, p := range running {
			if p != nil && p.over() {
				next(w)
			}
			if running[w] == nil {
				running[w] = orders[w].start(t)
			}
		}
		victim := rng.IntN(writers)
		last, alive := running[victim].listen(1 + rng.IntN(120))
		if alive {
			if rng.IntN(2) == 0 {
				<-time.After(time.Duration(rng.IntN(3000)) * time.Microsecond) // somewhere in the middle, not always right behind a line
			}
			var err error
			if alive, err = running[victim].kill(); err != nil {
				t.Fatalf("writer %d: %v", victim, err)
			}
		}
		if !alive {
			next(victim)
			continue
		}
		running[victim] = nil
		n++
		struck[moment(last)]++
		if err := r.look(); err != nil {
			t.Fatalf("after kill %d, of writer %d behind %q: %v", n, victim, last, err)
		}
	}
	for w, p := range running {
		if p != nil {
			if err := p.wait(); err != nil {
				t.Errorf("writer %d: %v", w, err)
			}
			running[w] = nil
		}
	}
	if t.Failed() {
		return
	}
	t.Logf("%d kills, behind: %v; readers saw %d records in shards, %d in repodata.json, at last", kills, struck, len(r.shards), len(r.json))

	// All of it once more, without a kill.
	last := 0
	for _, o := range orders {
		last = max(last, o.Plans[0].Generation)
	}
	var all []plan
	for g := range last + 1 {
		all = append(all, list(g))
	}
	clean := func() {
		for w := range orders {
			orders[w].Plans = all
			if err := orders[w].start(t).wait(); err != nil {
				t.Fatalf("writer %d: %v", w, err)
			}
		}
	}
	clean()
	want := sidecars(all...)
	complete(t, directory(dir), want)
	if t.Failed() {
		return
	}
	channelcheck(t, dir, len(want))

	// And again: nothing is written, not even the same bytes.
	before := listing(t, dir)
	clean()
	after := listing(t, dir)
	for key, state := range after {
		if before[key] != state {
			t.Errorf("the second clean run wrote %s: %q, was %q", key, state, before[key])
		}
		delete(before, key)
	}
	for key := range before {
		t.Errorf("the second clean run took %s away", key)
	}
}

// moment says what kind of write a line announces.
func moment(line string) string {
	verb, key, _ := strings.Cut(line, " ")
	switch {
	case strings.Contains(key, "/shards/"):
		key = "shard"
	case strings.Contains(key, ".sigs."):
		key = "immutable sidecar"
	case strings.HasSuffix(key, ".sigs"):
		key = "sidecar"
	case strings.HasSuffix(key, ".conda") || strings.HasSuffix(key, ".bz2"):
		key = "package"
	default:
		key = strings.TrimPrefix(key, subdir+"/")
	}
	return verb + " " + key
}

// listing gives each object's digest and time.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	s, err := store.NewDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out := map[string]string{}
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		b, err := directory(dir)(info.Key)
		if err != nil {
			t.Fatal(err)
		}
		out[info.Key] = digest(b) + " " + info.Modified.Format(time.RFC3339Nano)
	}
	return out
}
