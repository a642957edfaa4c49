package prefix_test

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/prefix"
)

func TestNew(t *testing.T) {
	t.Parallel()
	for raw, ok := range map[string]bool{
		"https://prefix.dev": true, "https://prefix.dev/": true, "http://127.0.0.1:8080": true, "http://[::1]:8080": true, "http://localhost": true,
		"http://prefix.dev": false, "http://localhost.example.org": false, "ftp://prefix.dev": false, "https://": false, "https://u:s3cret@prefix.dev": false,
		"https://prefix.dev/x": false, "https://prefix.dev?token=s3cret": false, "https://prefix.dev#s3cret": false, "https://:80": false,
	} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		_, err = prefix.New(prefix.Config{Server: u, Channel: "c"})
		if (err == nil) != ok || err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", raw, err)
		}
	}
	for name, ok := range map[string]bool{"conda-forge": true, "_a.b": true, "": false, "A": false, "..": false, "a/b": false, "a?b": false, strings.Repeat("a", 129): false, "a\n": false} {
		_, err := prefix.New(prefix.Config{Server: &url.URL{Scheme: "https", Host: "prefix.dev"}, Channel: name})
		if (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := prefix.New(prefix.Config{Channel: "c"}); err == nil {
		t.Error("no server")
	}
}

func TestParseURL(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string][2]string{
		"https://prefix.dev/my-channel": {"https://prefix.dev", "my-channel"}, "http://127.0.0.1:1/c": {"http://127.0.0.1:1", "c"},
		"https://prefix.dev/my-channel/": {}, "https://prefix.dev": {}, "https://prefix.dev/t/s3cret/c": {}, "https://prefix.dev/c?x=s3cret": {}, "https://u:s3cret@prefix.dev/c": {}, "https://prefix.dev/%zzs3cret": {},
	} {
		server, name, err := prefix.ParseURL(raw)
		if want == [2]string{} {
			if err == nil || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s: %v", raw, err)
			}
			continue
		}
		if err != nil || server.String() != want[0] || name != want[1] {
			t.Errorf("%s: %v, %s, %v", raw, server, name, err)
		}
	}
}

// TestRealSidecar reads a sidecar that prefix.dev served, where the corpus is there.
func TestRealSidecar(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "corpus", "bundles", "actionlint-1.7.12-h60d57d3_0.conda.v0.sigs"))
	if os.IsNotExist(err) {
		t.Skip("no corpus here")
	}
	if err != nil {
		t.Fatal(err)
	}
	elements, err := attest.Split(raw)
	if err != nil || len(elements) != 1 {
		t.Fatal(err)
	}
	if _, m := prefix.Held(raw, elements[0]); m != prefix.SameBytes {
		t.Errorf("as it is: %q", m)
	}
	var v any
	if err := json.Unmarshal(elements[0], &v); err != nil {
		t.Fatal(err)
	}
	pretty, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if _, m := prefix.Held(raw, pretty); m != prefix.SameJSON {
		t.Errorf("written anew: %q", m)
	}
	if _, m := prefix.Held(raw, []byte(strings.Replace(string(pretty), `"logIndex": "`, `"logIndex": "1`, 1))); m != "" {
		t.Errorf("changed: %q", m)
	}
}

// FuzzHeld: whatever is served, it is read without a panic, and holds its own elements.
func FuzzHeld(f *testing.F) {
	f.Add([]byte(`[{"a":1},{"b":[2,"x"]}]`), []byte(`{"a": 1}`))
	f.Add([]byte(`[]`), []byte(`{}`))
	f.Add([]byte(`<html>`), []byte(``))
	f.Fuzz(func(t *testing.T, sidecar, bundle []byte) {
		elements, err := attest.Split(sidecar)
		if err != nil {
			return
		}
		prefix.Held(sidecar, bundle)
		for _, e := range elements {
			if _, m := prefix.Held(sidecar, e); m != prefix.SameBytes {
				t.Errorf("%q does not hold %q", sidecar, e)
			}
		}
	})
}
