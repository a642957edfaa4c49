package queue

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const budgetChildEnv = "HALLMARK_BUDGET_TEST_SERVER"

// quickTempo has a window of six seconds, so that a test can see several.
var quickTempo = tempo{window: 6 * time.Second, lease: 500 * time.Millisecond, period: 250 * time.Millisecond}

// budgetChild makes requests as fast as the budget lets it, and prints when, until it is killed.
func budgetChild(url string) int {
	ctx := context.Background()
	nc, err := Connect(ctx, url, ConnectOptions{Log: quiet})
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	q, err := Open(ctx, nc, Options{Log: quiet})
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	b := newBudgets(kvBudgets{q}, WorkerID(), quickTempo, quiet).Campaign("c")
	var mu sync.Mutex
	parallel(50, func(int) {
		for {
			if err := b.Wait(ctx, "rekor"); err != nil {
				fmt.Println("error:", err)
				return
			}
			mu.Lock()
			fmt.Println(time.Now().UnixNano())
			mu.Unlock()
		}
	})
	return 1
}

// TestProcessesShareABudget: real processes around a real server; one is killed, one is stopped for a while with tokens in
// its hands.
func TestProcessesShareABudget(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a quarter of a minute")
	}
	t.Parallel()
	srv, err := Embed(t.TempDir(), EmbedOptions{Listen: "127.0.0.1:0", Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	url := srv.URL()
	nc, err := srv.Connect(ConnectOptions{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	q, err := Open(t.Context(), nc, Options{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	const rate = 600 // in six seconds
	if err := setRate(t.Context(), kvBudgets{q}, quickTempo, budgetKey("c", "rekor"), rate); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	uses := map[int][]time.Time{}
	var readers sync.WaitGroup
	start := func(n int) *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), budgetChildEnv+"="+url)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		readers.Go(func() {
			for s := bufio.NewScanner(out); s.Scan(); {
				if e, ok := strings.CutPrefix(s.Text(), "error:"); ok {
					t.Errorf("process %d: %s", n, e)
				}
				if ns, err := strconv.ParseInt(s.Text(), 10, 64); err == nil {
					mu.Lock()
					uses[n] = append(uses[n], time.Unix(0, ns))
					mu.Unlock()
				}
			}
			_ = cmd.Wait() // it is killed
		})
		return cmd
	}
	of := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return len(uses[n])
	}
	// until waits for the process to have made more requests: progress, whatever the machine's speed.
	until := func(n, more int) {
		t.Helper()
		want := of(n) + more
		for range 6000 {
			if of(n) >= want {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("process %d makes no more requests than %d, want %d", n, of(n), want)
	}
	children := []*exec.Cmd{start(0), start(1), start(2)}
	for n := range children {
		until(n, 20)
	}
	_ = children[0].Process.Kill()
	until(1, 40)
	_ = children[1].Process.Signal(syscall.SIGSTOP)
	children = append(children, start(3))
	until(2, 120) // one and two others' parts
	until(3, 60)
	_ = children[1].Process.Signal(syscall.SIGCONT)
	until(1, 40)
	until(2, 100)
	for _, c := range children {
		_ = c.Process.Kill()
	}
	readers.Wait()
	var all []time.Time
	for _, u := range uses {
		all = append(all, u...)
	}
	slices.SortFunc(all, time.Time.Compare)
	n := most(all, quickTempo.window)
	t.Logf("%d requests in %v, at most %d in any %v at a rate of %d", len(all), all[len(all)-1].Sub(all[0]).Round(time.Millisecond), n, quickTempo.window, rate)
	if n > rate*105/100 {
		t.Errorf("%d requests within %v, at a rate of %d", n, quickTempo.window, rate)
	}
}
