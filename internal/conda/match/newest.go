package match

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Record is what Newest needs to know of a record of repodata.
type Record struct {
	// Key is the file name. It is what Newest answers with.
	Key                  string
	Name, Version, Build string
	BuildNumber          int64
	// Timestamp is the record's own, in its own unit, 0 if it has none. It only breaks ties.
	Timestamp int64
	// Features says that track_features or features is not empty.
	Features bool
	// Depends MUST NOT change before the iteration goes on; Newest keeps its strings, and not the slice.
	Depends []string
}

// Source gives the records of one subdir, as often as asked, in any order, and each time the same ones.
type Source struct {
	// Records iterates over all records. An error ends the iteration and is returned by Newest.
	Records func() iter.Seq2[Record, error]
	// Named, if set, is used where only the records of some names matter: it MUST give all of theirs and may give others.
	// Where records can be found by name (shards), that saves reading the whole channel again. names is sorted.
	Named func(names []string) iter.Seq2[Record, error]
	// Rounds bounds how often missing dependencies are looked for. Default 0: until nothing is missing. With 1 the result
	// is conda-index's, which does not look at the dependencies of what it adds.
	Rounds int
}

// Selection is what Newest found.
type Selection struct {
	// Keys are the keys of the records to keep.
	Keys map[string]struct{}
	// Skipped counts the records left out because their version is no version, and the dependencies not followed because
	// they could not be read.
	Skipped int
	// Problems are the reasons of the first of them, at most maxProblems.
	Problems []error
}

const maxProblems = 100

func (s *Selection) skip(err error) {
	if s.Skipped++; len(s.Problems) < maxProblems {
		s.Problems = append(s.Problems, err)
	}
}

// Newest selects the records of a current_repodata.json (CEP 36), by conda-index's rules:
//
//  1. Of each name all records whose version starts with the newest one. That is what conda-index's name=version means:
//     with 1.0 as the newest, 1.0rc1 and 1.0+cpu come along. All builds and build numbers stay.
//  2. For each dependency of a selected record that no selected record satisfies, the newest version that satisfies it, with
//     all records that start with it, whether they satisfy the dependency or not. constrains does not count. What nothing
//     in the source satisfies (virtual packages, other channels, the noarch subdir) is left out, and so is what names a channel.
//  3. Step 2 again for what was added, until nothing is missing. conda-index stops after once: see Source.Rounds.
//  4. Of each name of which a record with features was selected, the best record without any; then step 2 for these.
//
// Of two archives of one package, a .conda and a .tar.bz2, only the .conda is selected, as conda would use.
// The best of two records with equal versions is the one with the greater build number, timestamp, build.
//
// The result does not depend on the order of the records. Cost: two iterations over all records, and two more over the
// wanted names for each round in which something is found missing (one, if nothing in the source satisfies it); channels take
// 1 to 4 rounds. Memory grows with the names, the distinct dependencies of selected records and the selected records, not with all of them.
func Newest(source Source) (Selection, error) {
	n := newest{
		source: source,
		best:   make(map[string]*best),
		chosen: make(map[string][]chosen),
		seen:   make(map[string]struct{}),
	}
	n.result.Keys = make(map[string]struct{})
	if err := n.run(); err != nil {
		return Selection{}, fmt.Errorf("selecting the newest records: %w", err)
	}
	return n.result, nil
}

type newest struct {
	source Source
	// best of each name.
	best map[string]*best
	// chosen records of each name.
	chosen map[string][]chosen
	// fresh are the selected records whose dependencies were not looked at.
	fresh []fresh
	// seen are the dependencies that were looked at.
	seen   map[string]struct{}
	result Selection
}

type chosen struct {
	version Version
	build   string
	number  int64
}

type fresh struct {
	key     string
	name    string
	record  chosen
	depends []string
}

// best is what is known of a name after the first iteration.
type best struct {
	any, plain rank
	// featured says that a record with features was selected, settled that plain was selected because of it.
	featured, settled bool
}

// rank orders the records of a name. Its zero value is below all records.
type rank struct {
	version           Version
	number, timestamp int64
	build, key        string
}

func rankOf(v Version, r *Record) rank {
	return rank{version: v, number: r.BuildNumber, timestamp: r.Timestamp, build: r.Build, key: r.Key}
}

func (a rank) less(b rank) bool {
	if a.version.IsZero() || b.version.IsZero() {
		return a.version.IsZero() && !b.version.IsZero()
	}
	return cmp.Or(a.version.Compare(b.version), cmp.Compare(a.number, b.number), cmp.Compare(a.timestamp, b.timestamp),
		// For the same package .conda wins over .tar.bz2. What differs in nothing else is told apart by its text.
		strings.Compare(a.build, b.build), -strings.Compare(a.key, b.key)) < 0
}

func (r *rank) raise(to rank) {
	if r.less(to) {
		*r = to
	}
}

func (n *newest) run() error {
	// Whatever is wrong with versions is told once, in this first iteration.
	for r, err := range n.source.Records() {
		if err != nil {
			return err
		}
		v, err := ParseVersion(r.Version)
		if err != nil {
			n.result.skip(fmt.Errorf("the version of %s: %w", r.Key, err))
			continue
		}
		b := n.best[r.Name]
		if b == nil {
			b = new(best)
			n.best[r.Name] = b
		}
		b.any.raise(rankOf(v, &r))
		if !r.Features {
			b.plain.raise(rankOf(v, &r))
		}
	}
	err := n.collect(n.source.Records(), func(name string, v Version, _ string) bool {
		b := n.best[name]
		return b != nil && v.HasPrefix(b.any.version)
	})
	for round := 1; err == nil; round++ {
		follow := n.source.Rounds <= 0 || round <= n.source.Rounds
		more := false
		if more, err = n.round(follow); !more {
			break
		}
	}
	return err
}

// round adds what the fresh records miss, if it is to follow their dependencies, and what stands in for records with
// features. more says that there was anything to add.
func (n *newest) round(follow bool) (more bool, err error) {
	var searches map[string][]*search
	if follow {
		searches = n.missing()
	}
	if len(searches) > 0 {
		for r, err := range n.records(sortedNames(searches)) {
			if err != nil {
				return false, err
			}
			wanted := searches[r.Name]
			if wanted == nil {
				continue
			}
			v, err := ParseVersion(r.Version)
			if err != nil {
				continue
			}
			for _, s := range wanted {
				if s.spec.Match(v, r.Build, r.BuildNumber) {
					s.found.raise(rankOf(v, &r))
				}
			}
		}
		for name, list := range searches {
			if list = slices.DeleteFunc(list, func(s *search) bool { return s.found.version.IsZero() }); len(list) == 0 {
				delete(searches, name)
			} else {
				searches[name] = list
			}
		}
	}
	if len(searches) > 0 {
		return true, n.collect(n.records(sortedNames(searches)), func(name string, v Version, _ string) bool {
			return slices.ContainsFunc(searches[name], func(s *search) bool { return v.HasPrefix(s.found.version) })
		})
	}
	plain := n.plain()
	if len(plain) == 0 {
		return false, nil
	}
	return true, n.collect(n.records(sortedNames(plain)), func(name string, _ Version, key string) bool { return plain[name] == key })
}

// search looks for the newest version that satisfies a dependency.
type search struct {
	spec  Spec
	found rank
}

// missing returns the dependencies of fresh records that no selected record satisfies, by name.
func (n *newest) missing() map[string][]*search {
	searches := make(map[string][]*search)
	for _, f := range n.fresh {
		for _, text := range f.depends {
			if _, ok := n.seen[text]; ok {
				continue
			}
			n.seen[text] = struct{}{}
			spec, err := ParseSpec(text)
			if err != nil {
				n.result.skip(fmt.Errorf("a dependency of %s: %w", f.key, err))
				continue
			}
			if spec.Channel != "" || n.best[spec.Name] == nil {
				continue
			}
			if !slices.ContainsFunc(n.chosen[spec.Name], func(c chosen) bool { return spec.Match(c.version, c.build, c.number) }) {
				searches[spec.Name] = append(searches[spec.Name], &search{spec: spec})
			}
		}
	}
	n.fresh = nil
	return searches
}

// plain returns the key of the record without features that has to be added, for each name that wants one.
func (n *newest) plain() map[string]string {
	keys := make(map[string]string)
	for name, b := range n.best {
		if !b.featured || b.settled || b.plain.version.IsZero() {
			continue
		}
		// Once is enough, whatever the source gives the next time.
		b.settled = true
		if _, ok := n.result.Keys[b.plain.key]; ok {
			continue
		}
		keys[name] = b.plain.key
	}
	return keys
}

// collect selects the records that want says, and keeps them as fresh.
func (n *newest) collect(records iter.Seq2[Record, error], want func(name string, v Version, key string) bool) error {
	for r, err := range records {
		if err != nil {
			return err
		}
		v, err := ParseVersion(r.Version)
		if err != nil || !want(r.Name, v, r.Key) {
			continue
		}
		if _, ok := n.result.Keys[r.Key]; ok {
			continue
		}
		n.result.Keys[r.Key] = struct{}{}
		if r.Features {
			n.best[r.Name].featured = true
		}
		n.fresh = append(n.fresh, fresh{key: r.Key, name: r.Name, record: chosen{v, r.Build, r.BuildNumber}, depends: slices.Clone(r.Depends)})
	}
	// Both archives of a package have one version, so both are here by now.
	n.fresh = slices.DeleteFunc(n.fresh, func(f fresh) bool {
		stem, ok := strings.CutSuffix(f.key, ".tar.bz2")
		if !ok {
			return false
		}
		if _, ok = n.result.Keys[stem+".conda"]; ok {
			delete(n.result.Keys, f.key)
		}
		return ok
	})
	for _, f := range n.fresh {
		n.chosen[f.name] = append(n.chosen[f.name], f.record)
	}
	return nil
}

// records iterates over the records of names at least.
func (n *newest) records(names []string) iter.Seq2[Record, error] {
	if n.source.Named != nil {
		return n.source.Named(names)
	}
	return n.source.Records()
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
