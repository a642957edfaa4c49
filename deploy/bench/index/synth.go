package main

import (
	"encoding/hex"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// subdir is the one that is measured: the largest of conda-forge.
const subdir = "linux-64"

// flatten keeps the first names from having most of the records. With it the largest of 31,000 names has about 3,200 of
// 500,000 records, and half of the names have five or fewer.
const flatten = 20

// Synth is a made-up channel with the shape of conda-forge's linux-64: long-tailed names, old versions as .tar.bz2, about
// 500 bytes of JSON a record. The same Synth always gives the same records, one name at a time, so that it never holds
// more than one name's. It is safe for concurrent use.
type Synth struct {
	seed   uint64
	names  []string // sorted
	counts []int    // of records, by name
	upTo   []int    // the sum of counts up to and with the name
	lo, hi int      // the names whose records are given
}

// NewSynth returns a channel of so many records of so many names, at least one a name.
func NewSynth(records, names int, seed uint64) (*Synth, error) {
	if names < 1 || records < names {
		return nil, fmt.Errorf("%d records of %d names: every name needs one", records, names)
	}
	s := &Synth{seed: seed, names: makeNames(names, seed), hi: names}
	var sum float64
	for rank := range names {
		sum += 1 / float64(rank+flatten)
	}
	spare := records - names
	byRank, left := make([]int, names), spare
	for rank := range byRank {
		n := int(float64(spare) / float64(rank+flatten) / sum)
		byRank[rank] = 1 + n
		left -= n
	}
	for rank := 0; left > 0; rank, left = (rank+1)%names, left-1 {
		byRank[rank]++
	}
	s.counts, s.upTo = make([]int, names), make([]int, names)
	for i, rank := range s.random(0x72616e6b, 0).Perm(names) {
		s.counts[i] = byRank[rank]
	}
	total := 0
	for i, n := range s.counts {
		total += n
		s.upTo[i] = total
	}
	return s, nil
}

func (s *Synth) random(what, i uint64) *rand.Rand {
	return rand.New(rand.NewPCG(s.seed^what<<32, i))
}

// parts gives the records in so many parts, by name.
func (s *Synth) parts(n int) iter.Seq[*Synth] {
	return func(yield func(*Synth) bool) {
		for i := range n {
			part := *s
			part.lo, part.hi = len(s.names)*i/n, len(s.names)*(i+1)/n
			if !yield(&part) {
				return
			}
		}
	}
}

// Count is the number of records.
func (s *Synth) Count() int { return s.upTo[len(s.upTo)-1] }

// Record is one package's entry in repodata.json. JSON is valid until the next one.
type Record struct {
	Filename string
	JSON     []byte
}

// Records yields the records of one of the two formats, sorted by file name.
func (s *Synth) Records(conda bool) iter.Seq[Record] {
	return func(yield func(Record) bool) {
		var buf []byte
		var builds []build
		for i := s.lo; i < s.hi; i++ {
			builds = s.builds(builds[:0], i)
			slices.SortFunc(builds, func(a, b build) int { return strings.Compare(a.filename, b.filename) })
			r := s.random(0x7265636f, uint64(i))
			deps := s.dependencies(r)
			for _, b := range builds {
				buf = b.json(buf[:0], s.names[i], deps, r)
				if b.conda == conda && !yield(Record{b.filename, buf}) {
					return
				}
			}
		}
	}
}

// Pick gives a name at random; a name with twice the records comes twice as often, as releases do.
func (s *Synth) Pick(r *rand.Rand) string {
	i, _ := slices.BinarySearch(s.upTo, 1+r.IntN(s.Count()))
	return s.names[i]
}

// build is one build of one version of a name.
type build struct {
	filename, version, build string
	number                   int
	python                   int // minor version of Python 3, or 0
	conda                    bool
	age                      float64 // 0 for the oldest, 1 for the newest
}

// builds gives the builds of a name. A third of them, the oldest, are .tar.bz2.
func (s *Synth) builds(list []build, name int) []build {
	r := s.random(0x6275696c, uint64(name))
	n, python := s.counts[name], r.IntN(10) < 4
	variants := 1 + r.IntN(4)
	if python {
		variants = 4 + r.IntN(8)
	}
	first, shift := r.IntN(5), r.Float64()
	for j := range n {
		v, variant := j/variants, j%variants
		b := build{
			version: fmt.Sprintf("%d.%d.%d", first+v/40, v/4%10, v%4),
			number:  variant,
			age:     (float64(j) + shift) / float64(n),
		}
		hash := r.Uint32() & 0xfffffff
		if python {
			b.python, b.number = 8+variant%6, variant/6
			b.build = fmt.Sprintf("py3%dh%07x_%d", b.python, hash, b.number)
		} else {
			b.build = fmt.Sprintf("h%07x_%d", hash, b.number)
		}
		b.conda = b.age >= 1./3
		ext := ".tar.bz2"
		if b.conda {
			ext = ".conda"
		}
		b.filename = s.names[name] + "-" + b.version + "-" + b.build + ext
		list = append(list, b)
	}
	return list
}

// dependencies are the names that a package needs in all its builds.
func (s *Synth) dependencies(r *rand.Rand) []string {
	deps := make([]string, r.IntN(5))
	for i := range deps {
		deps[i] = s.Pick(r)
	}
	return deps
}

var (
	licences  = [...]string{"MIT", "BSD-3-Clause", "Apache-2.0", "GPL-3.0-or-later", "LGPL-2.1-only", "MPL-2.0", "Apache-2.0 WITH LLVM-exception"}
	families  = [...]string{"MIT", "BSD", "Apache", "GPL", "LGPL", "MOZILLA", "Apache"}
	compilers = [...][2]string{{"libgcc-ng", "12"}, {"libgcc", "13"}, {"libgcc", "14"}, {"libstdcxx", "13"}, {"libgfortran5", "13.3.0"}}
)

// json appends the record, compact, its keys sorted. Nothing in it needs escaping.
func (b build) json(to []byte, name string, deps []string, r *rand.Rand) []byte {
	var digests [48]byte
	for i := range 6 {
		v := r.Uint64()
		for j := range 8 {
			digests[8*i+j] = byte(v >> (8 * j))
		}
	}
	licence := r.IntN(len(licences))
	to = append(to, `{"build":"`...)
	to = append(to, b.build...)
	to = append(to, `","build_number":`...)
	to = strconv.AppendInt(to, int64(b.number), 10)
	if r.IntN(4) == 0 && len(deps) > 0 {
		to = fmt.Appendf(to, `,"constrains":["%s >=%d.%d"]`, deps[0], r.IntN(9), r.IntN(20))
	}
	to = append(to, `,"depends":["__glibc >=2.17,<3.0.a0"`...)
	for _, c := range compilers[:1+r.IntN(len(compilers))] {
		to = fmt.Appendf(to, `,"%s >=%s"`, c[0], c[1])
	}
	for _, d := range deps {
		major, minor := r.IntN(9), r.IntN(30)
		to = fmt.Appendf(to, `,"%s >=%d.%d.%d,<%d.0a0"`, d, major, minor, r.IntN(9), major+1)
	}
	if b.python > 0 {
		to = fmt.Appendf(to, `,"python >=3.%d,<3.%d.0a0","python_abi 3.%d.* *_cp3%d"`, b.python, b.python+1, b.python, b.python)
	}
	to = append(to, `],"license":"`...)
	to = append(to, licences[licence]...)
	if r.IntN(5) < 3 {
		to = append(to, `","license_family":"`...)
		to = append(to, families[licence]...)
	}
	to = append(to, `","md5":"`...)
	to = hex.AppendEncode(to, digests[:16])
	to = append(to, `","name":"`...)
	to = append(to, name...)
	to = append(to, `","sha256":"`...)
	to = hex.AppendEncode(to, digests[16:])
	to = fmt.Appendf(to, `","size":%d,"subdir":"%s","timestamp":%d`, 4_000+r.IntN(1<<(10+r.IntN(16))), subdir,
		1_470_000_000_000+int64(b.age*300e9)+r.Int64N(1e9))
	if r.IntN(100) == 0 {
		to = append(to, `,"track_features":"`...)
		to = append(to, name...)
		to = append(to, '"')
	}
	return append(append(append(to, `,"version":"`...), b.version...), `"}`...)
}

// makeNames gives so many names, sorted. No dash is followed by a digit, so that sorted names give sorted file names.
func makeNames(n int, seed uint64) []string {
	r := rand.New(rand.NewPCG(seed, 0x6e616d65))
	starts := strings.Fields("ab acro al ama an ar as astro at bio bo by ca ce chem co cor cu da de di do dy el em en es ex fa fi flu for ga ge geo gi gra he hi hy im in io is ja ju ka ke ki la li lo lu ma me mi mo my na ne ni no nu ob on or pa pe pi po pro py qu ra re ri ro ru sa se si so sta su ta te ti to tra tu um un va ve vi vo wa we wi xa xe ya ze zo")
	ends := strings.Fields("base bit block box bridge calc cast core craft data db dex drive fast field file fit flow form frame gen graph grid hash io json kit lab lib line link list load log loop map mark mesh meter mix net node pack parse path plan plot plus pool port proc py query rank ray run scan set shell sim sort space spec stat stream sync tab task test text tools tree type url utils view wave web wire work xml yaml zip")
	before := [...]string{"", "", "", "", "lib", "py", "r-", "r-", "perl-", "ros-", "google-cloud-", "types-", "sphinx-", "jupyter_"}
	after := [...]string{"", "", "", "", "", "-dev", "-python", "-cpp", "-core", "-cli", "-static", "-tests", "_plugin", "-devel"}
	word := func() string {
		w := starts[r.IntN(len(starts))]
		if r.IntN(2) == 0 {
			w += starts[r.IntN(len(starts))]
		}
		return w + ends[r.IntN(len(ends))]
	}
	seen := make(map[string]bool, n)
	names := make([]string, 0, n)
	for len(names) < n {
		name := before[r.IntN(len(before))] + word()
		if r.IntN(4) == 0 {
			name += "-" + word()
		}
		name += after[r.IntN(len(after))]
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
