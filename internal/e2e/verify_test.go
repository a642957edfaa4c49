package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVerifyPublished: what the pipeline has published is verified through a plain file server, as a user of the channel
// would: by name, match spec, file name and URL, and from each kind of index that it has.
func TestVerifyPublished(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	packages := write(t, kit)
	run(t, programs.producer, p.publish(packages...)...).want(t, 0)
	platforms := subdirs(t, p.channel)
	s := serve(t, p.channel)

	type verification struct {
		Verified, Refused, Unreachable int
		Packages                       []struct {
			Input, Package, Status, Code, Index, DigestFrom string
			Sidecar                                         struct{ Kind string }
		}
	}
	who := []string{"verify", "--json", "--certificate-identity", stack.Identity, "--certificate-oidc-issuer", stack.Issuer, "--target-channel", channelURL}
	verify := func(exit int, args ...string) verification {
		t.Helper()
		return decode[verification](t, run(t, programs.producer, append(who, args...)...).want(t, exit))
	}

	// By URL, of the package and of its sidecar.
	app, data := s.URL+"/linux-64/kit-app-1.0-h0_0.conda", s.URL+"/noarch/kit-data-1!2024.1-h0_0.tar.bz2"
	if v := verify(0, app, data, app+".sigs", data+".sigs"); v.Verified != 4 || v.Packages[1].Package != data ||
		v.Packages[0].Sidecar.Kind != "advertised" || v.Packages[2].Sidecar.Kind != "mutable" {
		t.Errorf("%+v", v)
	}
	if n := len(s.asked("/repodata.json")); n > 0 {
		t.Errorf("there are shards, and repodata.json was read %d times", n)
	}
	// By name: the newest version alone, without downloads.
	before := len(s.asked(".conda"))
	v := verify(0, "--channel", s.URL, "--newest", "--no-download", "kit-lib")
	if len(v.Packages) != 1 || !strings.HasSuffix(v.Packages[0].Package, "/linux-64/kit-lib-2.0-h0_0.conda") || v.Packages[0].DigestFrom != "index" {
		t.Errorf("%+v", v)
	}
	if asked := s.asked(".conda")[before:]; len(asked) != 1 || !strings.Contains(asked[0].path, ".conda.sigs.") {
		t.Errorf("asked for %+v", asked)
	}

	// Everything, from each kind of index. The one that was used is taken away, so that the next is all there is.
	names := append([]string{"--channel", s.URL, "kit-app", "kit-lib", "kit-data 1!2024.*", "kit-py-0.1+local-pyh0_0", "python-3.12.1-h0_0.conda"}, packages...)
	for _, index := range []string{"repodata_shards.msgpack.zst", "repodata.json.zst", "repodata.json"} {
		v := verify(0, names...)
		if v.Verified != 2*len(kit) || v.Refused+v.Unreachable != 0 {
			t.Errorf("%+v", v)
		}
		for _, d := range v.Packages {
			from := "download"
			if filepath.IsAbs(d.Input) {
				from = "file"
			}
			if d.Index != index || d.Sidecar.Kind != "advertised" || d.DigestFrom != from {
				t.Errorf("%+v", d)
			}
		}
		for _, subdir := range platforms {
			if err := os.Remove(filepath.Join(p.channel, subdir, index)); err != nil {
				t.Fatal(err)
			}
		}
	}

	// Now there is no index at all, and the sidecar's URL still does.
	if v := verify(1, app, app+".sigs"); v.Verified != 1 || v.Packages[0].Code != "index.missing" {
		t.Errorf("%+v", v)
	}
	s.Close()
	if v := verify(5, app, app+".sigs"); v.Unreachable != 2 || v.Packages[0].Code != "upstream.unreachable" {
		t.Errorf("%+v", v)
	}
}
