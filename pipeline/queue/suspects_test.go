package queue

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallmark-attest/hallmark/pipeline"
)

var _ pipeline.Suspects = (*Suspects)(nil)

func TestSuspectsOutliveTheServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	i := open(t, dir, Options{})
	s, other := i.Suspects("one"), i.Suspects("two")
	odd := "an id with . and * and blanks"
	for _, note := range []struct {
		s  *Suspects
		id string
		n  int
	}{{s, "a", 1}, {s, "a", 2}, {s, odd, 1}, {s, "gone", 3}, {other, "b", 1}} {
		if err := note.s.Note(t.Context(), note.id, note.n); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // also what is not there
		if err := s.Clear(t.Context(), "gone"); err != nil {
			t.Fatal(err)
		}
	}
	i.close()
	i = open(t, dir, Options{})
	got, err := i.Suspects("one").Deaths(t.Context(), []string{"a", "b", "gone", odd})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]int{"a": 2, odd: 1}, got); d != "" {
		t.Error(d)
	}
	if _, err := i.suspects.Put(t.Context(), s.key("a"), []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	if got, err := i.Suspects("one").Deaths(t.Context(), []string{"a"}); err != nil || got["a"] != 0 {
		t.Errorf("%v, %v", got, err)
	}
}
