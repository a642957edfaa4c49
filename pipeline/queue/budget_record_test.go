package queue

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSchedule: whatever is asked for and whenever, the grants that lie less than a window and a lease apart are at most
// the rate: the sum that the proof is about, with stamps that are later than what the granter knew.
func TestSchedule(t *testing.T) {
	t.Parallel()
	for range 300 {
		rate := []int64{1, 2, 3, 39, 40, 41, 61, 600, 12345, maxRate}[rand.N(10)]
		rec := budgetRecord{Rate: rate}
		at := int64(1e18)
		type grant struct{ at, n int64 }
		var grants []grant
		for range 2000 {
			known := at + rand.Int64N(int64(2*time.Second))
			if rand.N(50) == 0 {
				known += rand.Int64N(int64(3 * time.Minute))
			}
			n := rec.grant(budgetTempo, "w", 1+rand.Int64N(2*rate), known)
			at = known + rand.Int64N(int64(time.Second))
			rec.Last = budgetGrant{Worker: "w", N: n, Want: n}
			rec.settle(budgetTempo, time.Unix(0, at))
			grants = append(grants, grant{at, n})
		}
		sum, first := int64(0), 0
		for _, g := range grants {
			sum += g.n
			for grants[first].at <= g.at-int64(budgetTempo.window+budgetTempo.lease) {
				sum -= grants[first].n
				first++
			}
			if sum > rate {
				t.Fatalf("rate %d: %d tokens granted within a window and a lease", rate, sum)
			}
		}
	}
}

func TestLevel(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		total float64
		wants []int64
		want  float64
	}{
		{10, []int64{100, 100}, 5},
		{10, []int64{2, 100}, 8},
		{12, []int64{1, 3, 100, 100}, 4},
		{10, []int64{100, 1, 100, 1}, 4},
		{0.5, []int64{1, 1}, 0.25},
	} {
		if got := level(c.total, c.wants); got != c.want {
			t.Errorf("%v to %v: %v, want %v", c.total, c.wants, got, c.want)
		}
	}
	if got := level(10, []int64{1, 2}); got < 2 {
		t.Errorf("enough for all: %v", got)
	}
}

// TestRecordStaysSmall: with hundreds of workers for hours.
func TestRecordStaysSmall(t *testing.T) {
	t.Parallel()
	rec := &budgetRecord{Rate: 6000}
	at := time.Unix(1e9, 0)
	for i := range 20000 {
		at = at.Add(5 * time.Millisecond)
		rec.Last = budgetGrant{Worker: fmt.Sprintf("%s-%d", strings.Repeat("h", 30), i%200+i/1000*10), N: 1, Want: 5}
		rec.settle(budgetTempo, at)
	}
	data, err := rec.encode()
	if err != nil || len(data) > maxBudget/4 || len(rec.Used) > 14 {
		t.Errorf("%d bytes, %d spans, %v", len(data), len(rec.Used), err)
	}
	if n := rec.used(); n < 12000 || n > 13200 {
		t.Errorf("%d tokens in the last minute", n)
	}
	back, err := decodeBudget(data)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := back.encode(); err != nil || !bytes.Equal(again, data) {
		t.Errorf("written again (%v):\n%s", err, cmp.Diff(string(data), string(again)))
	}
}

func TestBadRecords(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		``, `null`, `{}`, `[]`, `{"schema":"hallmark.budget/2","rate":1}`, `{"schema":"hallmark.budget/1","rate":-1}`,
		`{"schema":"hallmark.budget/1","rate":10000001}`, `{"schema":"hallmark.budget/1","rate":1,"next":-5}`,
		`{"schema":"hallmark.budget/1","rate":1,"last":{"n":-5}}`, `{"schema":"hallmark.budget/1","rate":1,"next":9223372036854775807}`,
		`{"schema":"hallmark.budget/1","rate":1,"used":[[1,-1]]}`, `{"schema":"hallmark.budget/1","rate":1,"takers":{"w":{"want":-1}}}`,
		strings.Repeat(" ", maxBudget+1),
	} {
		if _, err := decodeBudget([]byte(bad)); !errors.Is(err, errBudgetRecord) {
			t.Errorf("%.60s: %v", bad, err)
		}
	}
}

// FuzzBudgetRecord: a record that somebody else wrote neither panics nor lets more through than its rate's burst.
func FuzzBudgetRecord(f *testing.F) {
	f.Add([]byte(`{"schema":"hallmark.budget/1","rate":600,"next":1700000000000000000,"last":{"worker":"w","n":3,"want":9},"takers":{"v":{"seen":1700000000000000000,"want":4,"took":[[1700000000000000000,2]]}},"used":[[340000000,5]]}`))
	f.Add([]byte(`{"schema":"hallmark.budget/1","rate":0}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := decodeBudget(data)
		if err != nil {
			return
		}
		at := time.Unix(1_700_000_000, 0)
		rec.settle(budgetTempo, at)
		if rec.Rate == 0 {
			return
		}
		if n := rec.grant(budgetTempo, "me", 1<<30, at.UnixNano()); n < 0 || n > budgetTempo.burst(rec.Rate) {
			t.Errorf("grants %d", n)
		}
		rec.due(budgetTempo)
		rec.state("", "rekor")
		again, err := rec.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeBudget(again); err != nil && !bytes.Contains(data, []byte("took")) {
			t.Errorf("what was written cannot be read: %v", err)
		}
	})
}
