package writers_test

import (
	"context"
	"maps"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hallmark-attest/hallmark/internal/channel"
)

// TestNoarchIsFounded: a channel has a noarch/repodata.json from its first Update on (CEP 26), also where documents wait for
// Monolith, which nobody calls for noarch.
func TestNoarchIsFounded(t *testing.T) {
	t.Parallel()
	for _, small := range []int64{0, -1} {
		s := newScene(t, small, foreign{})
		if b, err := s.m.get("noarch/repodata.json"); err != nil || len(b) == 0 {
			t.Errorf("Small %d: %v", small, err)
		}
	}
}

// TestAShardComesBack: what a merge could not read is in the documents once it can be read.
func TestAShardComesBack(t *testing.T) {
	t.Parallel()
	s := newScene(t, -1, foreign{})
	s.update(s.publish(0, fresh...))
	b, err := s.m.get(subdir + "/repodata_shards.msgpack.zst")
	if err != nil {
		t.Fatal(err)
	}
	index, err := parseIndex(b)
	if err != nil {
		t.Fatal(err)
	}
	shard, err := s.m.get(index["a"])
	if err != nil {
		t.Fatal(err)
	}
	if err := s.m.Delete(t.Context(), index["a"]); err != nil {
		t.Fatal(err)
	}
	cold := channel.New(s.m, channel.Options{})
	s.monolith(cold)
	doc, _, err := loadDocument(s.m.get)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]bool{old[0].File: true, fresh[0].File: false, fresh[1].File: true} {
		if _, have := doc.rows[file]; have != want {
			t.Errorf("without the shard of a: %s is there: %v", file, have)
		}
	}
	if s.monolith(cold) {
		t.Error("without the shard of a, the documents were written twice")
	}
	s.m.set(index["a"], shard)
	s.monolith(cold)
	if doc, _, err = loadDocument(s.m.get); err != nil {
		t.Fatal(err)
	}
	if _, have := doc.rows[fresh[0].File]; !have {
		t.Errorf("the shard of a is there again, and repodata.json has no %s", fresh[0].File)
	}
}

// TestTheBaseFollows: when everybody is done, the next merge has nothing to read, whoever was first with what.
func TestTheBaseFollows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, -1, foreign{})
		s.update(s.publish(0, fresh[0]))
		other := s.publish(0, fresh[1])
		s.start = maps.Clone(s.m.objects)
		two := channel.New(s.m, channel.Options{Small: -1})
		for n, ended := 0, false; !ended; n += 2 {
			s.begin()
			at := s.m.interrupt(n, func() { // while one merges, two publishes and merges
				ctx := context.WithValue(t.Context(), aside{}, true)
				if _, _, err := two.Update(ctx, subdir, other); err != nil {
					t.Error(err)
				}
				if _, err := two.Monolith(ctx, subdir); err != nil {
					t.Error(err)
				}
			})
			s.monolith(s.writer)
			ended = at() == ""
			var shards, puts []string
			s.m.before = func(op, key string) {
				if strings.Contains(key, "/shards/") {
					shards = append(shards, key)
				}
				if op == "put" {
					puts = append(puts, key)
				}
			}
			s.monolith(channel.New(s.m, channel.Options{Parallel: 1}))
			if len(shards)+len(puts) > 0 {
				t.Errorf("two came before operation %d, %s; the next merge read %d shards and wrote %q", n, at(), len(shards), puts)
			}
		}
	})
}
