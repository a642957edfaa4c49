package attest

import (
	"errors"
	"strings"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

func TestCheckTargetChannel(t *testing.T) {
	t.Parallel()
	const secret = "se-cret"
	for u, want := range map[string]Code{
		"https://prefix.dev/conda-forge":                     "",
		"https://conda.anaconda.org/conda-forge":             "",
		"https://conda.anaconda.org/conda-forge/label/dev":   "",
		"https://conda.anaconda.org/conda-forge/label/A/b_c": "",
		"https://conda.example":                              "",
		"https://conda.example:8443/a/b_c/_d/e.f":            "",
		"https://conda.example/t":                            "", // nothing follows it
		"https://conda.example/label":                        "",
		"https://conda.example/linux-tools":                  "",
		"http://localhost:8080/channel":                      "",
		"http://127.0.0.1:8080/channel":                      "",
		"http://[::1]:8080/channel":                          "",
		"https://h/" + strings.Repeat("a", 128):              "",
		"https://h/" + strings.Repeat("a", 129):              CodeChannel,
		"https://h" + strings.Repeat("/abcdefg", 259):        "", // 2081 bytes
		"https://h" + strings.Repeat("/abcdefg", 260):        CodeChannel,
		"":                                              CodeChannel,
		"conda-forge":                                   CodeChannel,
		"//conda.example/a":                             CodeChannel,
		"https:///a":                                    CodeChannel,
		"https://:443/a":                                CodeChannel,
		"https://conda.example:/a":                      CodeChannel,
		"https://conda.example:0/a":                     CodeChannel,
		"https://conda.example:x/a":                     CodeChannel,
		"https://h:65536/a":                             CodeChannel,
		"https://Conda.example/a":                       CodeChannel,
		"https://conda..example/a":                      CodeChannel,
		"https://-conda.example/a":                      CodeChannel,
		"https://con da.example/a":                      CodeChannel,
		"https://[fe80::1%25eth0]/a":                    CodeChannel,
		"https://conda.example/":                        CodeChannel,
		"https://conda.example/a/":                      CodeChannel,
		"https://conda.example//a":                      CodeChannel,
		"https://conda.example/A":                       CodeChannel,
		"https://conda.example/.a":                      CodeChannel,
		"https://conda.example/..":                      CodeChannel,
		"https://conda.example/-a":                      CodeChannel,
		"https://conda.example/a%20":                    CodeChannel,
		"https://conda.example/é":                       CodeChannel,
		"https://conda.example/a?":                      CodeChannel,
		"https://conda.example/a?token=" + secret:       CodeChannel,
		"https://conda.example/a#":                      CodeChannel,
		"https://conda.example/a#" + secret:             CodeChannel,
		"https://conda.example/a/label/1":               CodeChannel,
		"https://conda.example/a/label/b//c":            CodeChannel,
		"https://conda.example/a/label/b/../c":          CodeChannel,
		"https://conda.example/a\n":                     CodeChannel,
		"https://conda.example/" + secret + "%zz":       CodeChannel,
		"https://conda.example/t%2F" + secret:           CodeChannel,
		"HTTPS://conda.example/a":                       CodeChannelScheme,
		"s3://" + secret + "/a":                         CodeChannelScheme,
		"file:///a":                                     CodeChannelScheme,
		"ftp://conda.example/a":                         CodeChannelScheme,
		"https://me:" + secret + "@conda.example/a":     CodeChannelCredentials,
		"https://" + secret + "@conda.example/a":        CodeChannelCredentials,
		"https://@conda.example/a":                      CodeChannelCredentials,
		"https://me:" + secret + "@conda.example/a?b":   CodeChannelCredentials,
		"https://conda.anaconda.org/t/" + secret + "/a": CodeChannelToken,
		"https://conda.anaconda.org/t/" + secret:        CodeChannelToken,
		"https://conda.anaconda.org/T/" + secret + "/a": CodeChannelToken,
		"https://conda.example/x/t/" + secret + "/a":    CodeChannelToken,
		"https://conda.example/a/noarch":                CodeChannelSubdir,
		"https://conda.example/a/linux-64":              CodeChannelSubdir,
		"https://conda.example/a/label/dev/osx-arm64":   CodeChannelSubdir,
		"https://conda.example/win-64":                  CodeChannelSubdir,
	} {
		err := CheckTargetChannel(u)
		if wantCode(t, err, want); t.Failed() {
			t.Fatalf("%q", u)
		}
		if err == nil {
			continue
		}
		e, _ := errors.AsType[*Error](err)
		if strings.Contains(e.Error()+e.Hint, secret) {
			t.Errorf("%q: the error tells the secret: %v; %s", u, e, e.Hint)
		}
		if want == CodeChannelScheme && !strings.Contains(e.Hint, "--channel-url") {
			t.Errorf("%q: the hint is %q", u, e.Hint)
		}
	}
}

func FuzzCheckTargetChannel(f *testing.F) {
	f.Add("https://prefix.dev/conda-forge")
	f.Add("https://h/a/label/b/c")
	f.Add("https://h/t/abc/d")
	f.Fuzz(func(t *testing.T, u string) {
		if CheckTargetChannel(u) != nil {
			return
		}
		// What is accepted is what every reader of the statement accepts, and equal to itself.
		if strings.HasSuffix(u, "/") || strings.ContainsAny(u, "@?#%\\ ") || !strings.HasPrefix(u, "http") {
			t.Errorf("accepted %q", u)
		}
		if _, err := parsePredicate(strictjson.Object{"targetChannel": u}); err != nil {
			t.Errorf("accepted %q, and as a predicate it is refused: %v", u, err)
		}
		if !sameChannel(u, u) {
			t.Errorf("%q is not the same as itself", u)
		}
	})
}
