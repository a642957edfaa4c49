package queue

import (
	"fmt"
	"strings"
	"testing"
)

// TestRates: budgets in a real bucket, set, used and looked at.
func TestRates(t *testing.T) {
	t.Parallel()
	i := open(t, t.TempDir(), Options{})
	ctx := t.Context()
	rates := func(campaign string) []BudgetState {
		t.Helper()
		s, err := i.Rates(ctx, campaign)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	set := func(campaign, upstream string, n int64) {
		t.Helper()
		if err := i.SetRate(ctx, campaign, upstream, n); err != nil {
			t.Fatal(err)
		}
	}
	set("c", "rekor", 0) // taking away what is not there
	if s := append(rates(""), rates("c")...); len(s) != 0 {
		t.Errorf("at first: %+v", s)
	}
	set("c", "rekor", 600)
	set("c", "fulcio", 5)
	set("", "rekor", 1200)
	set("", "fulcio", 10)
	set("", "fulcio", 0)

	b := i.Budgets("worker-1")
	defer b.Close()
	budget := b.Campaign("c")
	for range 12 {
		if err := budget.Wait(ctx, "rekor"); err != nil {
			t.Fatal(err)
		}
		if err := budget.Wait(ctx, "timestamp"); err != nil { // has none
			t.Fatal(err)
		}
	}
	for campaign, want := range map[string]string{"c": "fulcio=5 rekor=600", "": "rekor=1200"} {
		var got []string
		for _, s := range rates(campaign) {
			got = append(got, fmt.Sprintf("%s=%d", s.Upstream, s.PerMinute))
			if s.Upstream != "rekor" {
				if s.Granted != 0 || len(s.Takers) != 0 {
					t.Errorf("unused: %+v", s)
				}
				continue
			}
			if s.Granted < 12 || s.Granted > 60 || len(s.Takers) != 1 || s.Takers[0].Worker != "worker-1" || s.Campaign != campaign {
				t.Errorf("after 12 requests: %+v", s)
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("budgets of %q: %s, want %s", campaign, s, want)
		}
	}
	for upstream, n := range map[string]int64{"github": 5, "": 5, "rekor": -1, "fulcio": maxRate + 1} {
		if err := i.SetRate(ctx, "c", upstream, n); err == nil {
			t.Errorf("%s=%d is taken", upstream, n)
		}
	}
	// One that cannot be read gives nothing, and is replaced by the next rate.
	if _, err := i.budgets.Put(ctx, budgetKey("c", "rekor"), []byte(`{"rate":1e9}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Rates(ctx, "c"); err == nil {
		t.Error("a malformed record is shown")
	}
	set("c", "rekor", 60)
	if err := budget.Wait(ctx, "rekor"); err != nil {
		t.Fatal(err)
	}
}
