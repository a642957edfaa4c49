package condatest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"

	"github.com/hallmark-attest/hallmark/internal/conda"
)

// Samples returns n specs with n different file names, the same for the same seed. Any eight in a row have all that is special about
// names and metadata: every subdir and both formats, dots and underscores in names, capitals in builds, '+' and '!' in versions,
// run exports as a list and as a map, noarch of both kinds.
func Samples(n int, seed uint64) []Spec {
	r := rand.New(rand.NewPCG(seed, 0x68616c6c6d61726b))
	platforms := [...]string{"linux-64", "osx-arm64", "win-64"}
	words := [...]string{"amber", "basalt", "cobalt", "dolomite", "emery", "feldspar", "garnet", "hematite"}
	joins := [...]string{"-", ".", "_", ""}
	licences := [...]string{"MIT", "BSD-3-Clause", "Apache-2.0"}
	specs := make([]Spec, n)
	for i := range specs {
		word := words[r.IntN(len(words))]
		s := Spec{
			Name:        fmt.Sprintf("%s%sk%d", word, joins[i%4], i), // i keeps file names apart
			Version:     fmt.Sprintf("%d.%d.%d", r.IntN(5), r.IntN(30), i%7),
			BuildNumber: r.IntN(4),
			Subdir:      platforms[i%3],
			Format:      conda.Conda,
			Depends:     []string{"libstdcxx >=13", fmt.Sprintf("%s >=1.%d,<2.0a0", words[r.IntN(len(words))], r.IntN(9))},
			License:     licences[r.IntN(len(licences))],
			Timestamp:   1_700_000_000_000 + int64(i)*61_000 + r.Int64N(60_000),
		}
		s.Build = fmt.Sprintf("h%07x_%d", r.Uint32()&0xfffffff, s.BuildNumber)
		s.Files = map[string][]byte{
			"lib/" + s.Name + ".txt":          fmt.Appendf(nil, "%s of seed %d, number %d\n", s.Name, seed, i),
			"share/doc/" + s.Name + "/README": fmt.Appendf(nil, "%x\n", r.Uint64()),
		}
		switch i % 8 {
		case 1:
			s.Version = "1!" + s.Version
			s.RunExports = json.RawMessage(`["` + s.Name + ` >=1"]`)
		case 2:
			s.Format = conda.TarBz2
			s.Version += "+local.1"
		case 3:
			s.Subdir, s.Noarch, s.Build = "noarch", "python", fmt.Sprintf("pyhd8ed1ab_%d", s.BuildNumber)
			s.Depends = []string{"python >=3.10"}
			s.Files = map[string][]byte{"site-packages/" + word + "/__init__.py": []byte("answer = 42\n")}
		case 4:
			s.Build = fmt.Sprintf("R44_Hdeb%04X.%d", r.Uint32()&0xffff, s.BuildNumber)
			s.Constrains = []string{"r-base 4.4.*"}
			s.RunExports = json.RawMessage(`{"strong": ["` + s.Name + `"], "weak_constrains": ["` + s.Name + ` <2"], "noarch": []}`)
		case 5:
			s.Name = "_" + s.Name
		case 6:
			s.Subdir, s.Noarch, s.Format = "noarch", "generic", conda.TarBz2
			s.RunExports = json.RawMessage(`{"weak": ["` + s.Name + `"]}`)
		case 7:
			s.Payload = 20_000 + r.IntN(60_000)
		}
		specs[i] = s
	}
	return specs
}
