package event

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func readGolden(t testing.TB, name string) goldenEvent {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g goldenEvent
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

var events = []string{Signed, Published, Skipped, Failed, Aborted}

// TestDecodeGolden: what was encoded is what is decoded, to the last detail.
func TestDecodeGolden(t *testing.T) {
	t.Parallel()
	for _, name := range events {
		g := readGolden(t, name)
		ev, err := Decode(g.Subject, g.Header, g.Data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if ev.Tokens.Event != name || ev.ID != g.Header["ce-id"][0] || ev.Tokens.Campaign != ev.Details.Campaign.ID {
			t.Errorf("%s: %+v", name, ev)
		}
		var d cdevent
		if err := json.Unmarshal(g.Data, &d); err != nil {
			t.Fatal(err)
		}
		again, err := marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(indent(t, g.Data)), string(indent(t, again))); diff != "" {
			t.Errorf("%s: the types lose something (-golden +again):\n%s", name, diff)
		}
		if diff := cmp.Diff(d.CustomData, ev.Details); diff != "" {
			t.Error(diff)
		}
	}
}

func TestDecodeTolerates(t *testing.T) {
	t.Parallel()
	g := readGolden(t, Signed)
	data := strings.Replace(string(g.Data), `"customData": {`, `"customData": {"novelty": [1, {}],`, 1)
	h := maps.Clone(g.Header)
	h["ce-novelty"] = []string{"x"}
	if _, err := Decode(g.Subject, h, []byte(data)); err != nil || !strings.Contains(data, "novelty") {
		t.Errorf("unknown fields: %v", err)
	}

	// A kind of event that a later version brings.
	h = maps.Clone(g.Header)
	h["ce-type"] = []string{"dev.cdeventsx.hallmark-campaign.finished.0.1.0"}
	data = strings.Replace(string(g.Data), TypeSigned, h["ce-type"][0], 1)
	ev, err := Decode(Subject("finished", "c", "", "", "", ""), h, []byte(data))
	if err != nil || ev.Tokens.Event != "finished" {
		t.Errorf("unknown event: %+v, %v", ev, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*goldenEvent){
		"no header":          func(g *goldenEvent) { g.Header = nil },
		"other specversion":  func(g *goldenEvent) { g.Header["ce-specversion"] = []string{"0.3"} },
		"no JSON":            func(g *goldenEvent) { g.Header["content-type"] = []string{"text/plain"} },
		"no id":              func(g *goldenEvent) { delete(g.Header, "ce-id") },
		"two ids":            func(g *goldenEvent) { g.Header["ce-id"] = append(g.Header["ce-id"], g.Header["ce-id"]...) },
		"other id":           func(g *goldenEvent) { g.Header["ce-id"] = []string{"x"} },
		"other source":       func(g *goldenEvent) { g.Header["ce-source"] = []string{"urn:x"} },
		"other type":         func(g *goldenEvent) { g.Header["ce-type"] = []string{TypePublished} },
		"other event":        func(g *goldenEvent) { g.Subject = strings.Replace(g.Subject, ".signed.", ".published.", 1) },
		"other subject":      func(g *goldenEvent) { g.Subject = "job.x" },
		"next major version": func(g *goldenEvent) { g.Subject = strings.Replace(g.Subject, ".v1.", ".v2.", 1) },
		"truncated":          func(g *goldenEvent) { g.Data = g.Data[:len(g.Data)-2] },
		"trailing":           func(g *goldenEvent) { g.Data = append(g.Data, "{}"...) },
		"no signature":       func(g *goldenEvent) { g.Data = []byte(strings.Replace(string(g.Data), "MEUCIQDsig==", "", 1)) },
		"no timestamp": func(g *goldenEvent) {
			g.Data = []byte(strings.Replace(string(g.Data), `"timestamp"`, `"tomestamp"`, 1))
		},
		"too large": func(g *goldenEvent) { g.Data = append(g.Data, strings.Repeat(" ", maxDecode)...) },
	} {
		g := readGolden(t, Signed)
		change(&g)
		if ev, err := Decode(g.Subject, g.Header, g.Data); err == nil {
			t.Errorf("%s: decoded as %+v", name, ev)
		} else if len(err.Error()) > 2000 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

func TestEventJSON(t *testing.T) {
	t.Parallel()
	g := readGolden(t, Signed)
	ev, err := Decode(g.Subject, g.Header, g.Data)
	if err != nil {
		t.Fatal(err)
	}
	ev.Sequence, ev.Stored = 7, at
	b, err := json.Marshal(ev)
	if err != nil {
		t.Fatal(err)
	}
	onlyKeys(t, "JSON form", object(t, b), []string{"sequence", "stored", "subject", "id", "source", "type", "time", "traceparent", "data"})
}

func FuzzDecode(f *testing.F) {
	for _, name := range events {
		g := readGolden(f, name)
		h := g.Header
		f.Add(g.Subject, h["ce-id"][0], h["ce-type"][0], h["ce-source"][0], []byte(g.Data))
	}
	f.Add("attest.v1......", "%", "dev.cdevents.....", "%2", []byte("null"))
	f.Fuzz(func(t *testing.T, subject, id, typ, source string, data []byte) {
		ev, err := Decode(subject, map[string][]string{"ce-specversion": {"1.0"}, "content-type": {"application/json"},
			"ce-id": {id}, "ce-type": {typ}, "ce-source": {source}}, data)
		if (ev == nil) == (err == nil) {
			t.Fatal("neither an event nor an error, or both")
		}
		if ev != nil && (ev.ID == "" || ev.Type == "" || ev.Source == "" || ev.Tokens.Event == "") {
			t.Fatalf("an event without identity: %+v", ev)
		}
	})
}

func FuzzScrub(f *testing.F) {
	f.Add("opening /a/b c/d.conda: no such file", "/a/b c/d.conda")
	f.Add("GET https://u:p@h/x?y=z: 403", "/x")
	f.Fuzz(func(t *testing.T, text, source string) {
		if got := scrub(text, source, "/a/b c"); len(got) > maxText || strings.Contains(got, "\x00") {
			t.Fatalf("%d bytes: %q", len(got), got)
		}
	})
}

// TestPageIsTrue: the page for subscribers shows the golden event, and every type there is.
func TestPageIsTrue(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "events.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	g := readGolden(t, Published)
	want := []string{string(indent(t, g.Data)), g.Subject, SpecVersion, Schema, TypeSigned, TypePublished, TypeSkipped, TypeFailed, TypeAborted,
		TypeSourcesVerified, TypeSourcesRefused, TypeSourcesUnverified}
	for k, v := range g.Header {
		want = append(want, k+": "+v[0]+"\n")
	}
	for _, w := range want {
		if !strings.Contains(page, w) {
			t.Errorf("docs/events.md does not have:\n%s", w)
		}
	}
}
