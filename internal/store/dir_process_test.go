package store_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/store"
	"go.uber.org/goleak"
)

// As other processes, the test binary runs itself: with these in its environment it is a writer.
const (
	roleVariable = "STORE_TEST_ROLE"
	dirVariable  = "STORE_TEST_DIR"
)

func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if role == "" {
		goleak.VerifyTestMain(m)
	}
	d, err := store.NewDir(os.Getenv(dirVariable))
	if err == nil {
		switch role {
		case "write":
			err = writeForEver(d)
		case "count":
			err = countUp(d)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func process(t *testing.T, role, dir string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+role, dirVariable+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// sealed makes bytes that say whether they are whole: a digest and what it is of.
func sealed(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	sum := sha256.Sum256(b)
	return append([]byte(hex.EncodeToString(sum[:])), b...)
}

func whole(b []byte) bool {
	if len(b) < 64 {
		return false
	}
	sum := sha256.Sum256(b[64:])
	return hex.EncodeToString(sum[:]) == string(b[:64])
}

// writeForEver writes in all ways, on four goroutines, and says so after each: "new KEY DIGEST" for what must be there for good,
// "over KEY" for what must be there in some whole state.
func writeForEver(d *store.Dir) error {
	ctx := context.Background()
	run := strconv.FormatUint(rand.Uint64(), 36)
	var out sync.Mutex
	failed := make(chan error)
	for g := range 4 {
		go func() {
			for i := 0; ; i++ {
				b := sealed(rand.IntN(200_000))
				say := ""
				var err error
				switch i % 3 {
				case 0:
					key := fmt.Sprintf("new/%s/%d/%d", run, g, i)
					_, err = d.Put(ctx, key, bytes.NewReader(b), int64(len(b)), store.PutOptions{IfNoneMatch: true})
					say = "new " + key + " " + digestOf(b)
				case 1:
					key := fmt.Sprintf("over/%d", g)
					_, err = d.Put(ctx, key, bytes.NewReader(b), int64(len(b)), store.PutOptions{})
					say = "over " + key
				case 2:
					var now store.Info
					if now, err = d.Head(ctx, "over/0"); err == nil {
						_, err = d.Put(ctx, "over/0", bytes.NewReader(b), int64(len(b)), store.PutOptions{IfMatch: now.ETag})
					}
					if errors.Is(err, store.ErrPrecondition) || errors.Is(err, store.ErrNotFound) {
						err = nil
					}
				}
				if err != nil {
					failed <- err
					return
				}
				if say != "" {
					out.Lock()
					fmt.Println(say)
					out.Unlock()
				}
			}
		}()
	}
	return <-failed
}

// TestDirCrash kills a writing process again and again. Afterwards every object is whole, all that was promised is there, and
// nothing else is listed.
func TestDirCrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	promised := map[string]string{} // key → digest, "" for any
	const rounds = 25
	leftovers := 0
	for round := range rounds {
		cmd, lines := process(t, "write", dir)
		for n := 4 + rand.IntN(20); n > 0 && lines.Scan(); n-- {
			f := strings.Fields(lines.Text())
			switch {
			case len(f) == 3 && f[0] == "new":
				promised[f[1]] = f[2]
			case len(f) == 2 && f[0] == "over":
				promised[f[1]] = ""
			default:
				t.Fatalf("round %d: the writer said %q", round, lines.Text())
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if s := cmd.ProcessState.String(); s != "signal: killed" {
			t.Fatalf("round %d: the writer ended by itself: %s", round, s)
		}
		temps, err := filepath.Glob(filepath.Join(dir, ".hallmark", "tmp", "*"))
		if err != nil {
			t.Fatal(err)
		}
		leftovers += len(temps)
	}
	if leftovers == 0 {
		t.Error("no kill hit a writer in the middle: this test has proved nothing")
	}

	// The temporary files of the dead age, then a start finds them.
	temps, _ := filepath.Glob(filepath.Join(dir, ".hallmark", "tmp", "*"))
	old := time.Now().Add(-time.Hour)
	for _, f := range temps {
		if err := os.Chtimes(f, old, old); err != nil {
			t.Fatal(err)
		}
	}
	d := reopen(t, dir)
	if temps, _ := filepath.Glob(filepath.Join(dir, ".hallmark", "tmp", "*")); len(temps) > 0 {
		t.Errorf("temporary files are left: %q", temps)
	}
	found := 0
	for info, err := range d.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		found++
		r, _, err := d.Get(t.Context(), info.Key)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			t.Fatal(err)
		}
		if !whole(b) || !strings.HasPrefix(info.Key, "new/") && !strings.HasPrefix(info.Key, "over/") {
			t.Errorf("%s: %d bytes are no object", info.Key, len(b))
		}
		if digest := promised[info.Key]; digest != "" && digest != digestOf(b) {
			t.Errorf("%s: other bytes than promised", info.Key)
		}
		delete(promised, info.Key)
	}
	if found == 0 || len(promised) > 0 {
		t.Errorf("%d objects found, %d promised ones lost: %v", found, len(promised), promised)
	}
	if err := store.Probe(t.Context(), d); err != nil {
		t.Errorf("after the crashes: %v", err)
	}
}

const additions = 30

func countUp(d *store.Dir) error {
	ctx := context.Background()
	for range additions {
		for {
			r, info, err := d.Get(ctx, "counter")
			if err != nil {
				return err
			}
			b, err := io.ReadAll(r)
			r.Close()
			if err != nil {
				return err
			}
			n, err := strconv.Atoi(string(b))
			if err != nil {
				return err
			}
			next := strconv.Itoa(n + 1)
			_, err = d.Put(ctx, "counter", strings.NewReader(next), int64(len(next)), store.PutOptions{IfMatch: info.ETag})
			if err == nil {
				break
			} else if !errors.Is(err, store.ErrPrecondition) {
				return err
			}
		}
	}
	return nil
}

// TestDirProcesses: conditions hold between processes. Three of them count by compare and swap.
func TestDirProcesses(t *testing.T) {
	t.Parallel()
	d, path := newDir(t)
	if _, err := put(t, d, "counter", []byte("0"), store.PutOptions{IfNoneMatch: true}); err != nil {
		t.Fatal(err)
	}
	const processes = 3
	var running []*exec.Cmd
	for range processes {
		cmd, _ := process(t, "count", path)
		running = append(running, cmd)
	}
	for _, cmd := range running {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(path, "counter")); err != nil || string(b) != strconv.Itoa(processes*additions) {
		t.Errorf("%q %v, want %d", b, err, processes*additions)
	}
}
