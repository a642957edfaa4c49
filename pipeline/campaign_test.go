package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSegments(t *testing.T) {
	t.Parallel()
	all := []string{"hash", "sign", "upload", "publish"}
	for _, tt := range []struct {
		cuts []string
		want [][]string
		err  string
	}{
		{nil, [][]string{all}, ""},
		{[]string{"sign"}, [][]string{{"hash"}, {"sign", "upload", "publish"}}, ""},
		{[]string{"upload", "sign"}, [][]string{{"hash"}, {"sign"}, {"upload", "publish"}}, ""},
		{[]string{"hash"}, nil, "first stage"},
		{[]string{"sources"}, nil, "distinct stages"},
		{[]string{"sign", "sign"}, nil, "distinct stages"},
	} {
		got, err := (&Campaign{Cuts: tt.cuts}).Segments(all)
		if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: error %v, want %q", tt.cuts, err, tt.err)
		}
		if d := cmp.Diff(tt.want, got); err == nil && d != "" {
			t.Errorf("%q: %s", tt.cuts, d)
		}
	}
}

func TestCampaignValidate(t *testing.T) {
	t.Parallel()
	good := Campaign{Name: "rebuild-2026", To: "/ch", ChannelURL: "https://c.example/x"}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []SourcePolicy{NewSourcePolicy("report", ""), NewSourcePolicy("require", "version: 1"), NewSourcePolicy("off", "version: 1"), NewSourcePolicy("", "")} {
		c := good
		c.Sources = p
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
	for name, change := range map[string]func(*Campaign){
		"no name":    func(c *Campaign) { c.Name = "" },
		"dots":       func(c *Campaign) { c.Name = "a.b" },
		"wildcard":   func(c *Campaign) { c.Name = "*" },
		"capitals":   func(c *Campaign) { c.Name = "A" },
		"long":       func(c *Campaign) { c.Name = strings.Repeat("a", 65) },
		"no store":   func(c *Campaign) { c.To = "" },
		"sources":    func(c *Campaign) { c.Sources = SourcePolicy{Mode: "maybe"} },
		"off":        func(c *Campaign) { c.Sources = SourcePolicy{Mode: "off"} },
		"no digest":  func(c *Campaign) { c.Sources = SourcePolicy{Mode: "report", Text: "version: 1"} },
		"no text":    func(c *Campaign) { c.Sources = NewSourcePolicy("report", "x"); c.Sources.Text = "" },
		"other text": func(c *Campaign) { c.Sources = NewSourcePolicy("report", "x"); c.Sources.Text = "y" },
		"no mode":    func(c *Campaign) { c.Sources = NewSourcePolicy("report", "x"); c.Sources.Mode = "" },
		"no channel": func(c *Campaign) { c.ChannelURL = "" },
	} {
		c := good
		change(&c)
		if c.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	c := good
	c.ChannelURL, c.NoTargetChannel = "", true
	if err := c.Validate(); err != nil {
		t.Errorf("no target channel, as asked: %v", err)
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	perm := Permanent("package.empty", "hint", errors.New("empty"))
	for _, tt := range []struct {
		err   error
		kind  Kind
		cause string
		text  string
	}{
		{perm, KindPermanent, "package.empty", "empty"},
		{fmt.Errorf("hashing: %w", perm), KindPermanent, "package.empty", "hashing: empty"},
		{Skip("channel.published", "signed by %s", "me"), KindSkip, "channel.published", "signed by me"},
		{errors.New("boom"), KindTransient, "internal.unclassified", "boom"},
		{fmt.Errorf("asking: %w", context.DeadlineExceeded), KindTransient, "timeout", "asking: context deadline exceeded"},
		{Transient("rekor.unavailable", time.Second, errors.New("503")), KindTransient, "rekor.unavailable", "503"},
	} {
		e := Classify(tt.err)
		if e.Kind != tt.kind || e.Cause != tt.cause || e.Error() != tt.text {
			t.Errorf("%v: got %v %q %q", tt.err, e.Kind, e.Cause, e.Error())
		}
		if !errors.Is(e, tt.err) && e != tt.err {
			t.Errorf("%v: the original is lost", tt.err)
		}
	}
	if Classify(nil) != nil {
		t.Error("nil")
	}
}

func TestItemID(t *testing.T) {
	t.Parallel()
	base := []string{strings.Repeat("a", 64), "/x/f", "https://c", "linux-64", "f", "p"}
	id := func(a []string) string { return ItemID(a[0], a[1], a[2], a[3], a[4], a[5]) }
	want := id(base)
	if len(want) != 32 {
		t.Fatal(want)
	}
	for i := range base {
		a := append([]string(nil), base...)
		a[i] += "b"
		if same := id(a) == want; same != (i == 1) {
			t.Errorf("part %d changed: same ID %v; the path must not matter where the digest is known, all else must", i, same)
		}
	}
	a := append([]string(nil), base...)
	a[0] = ""
	b := append([]string(nil), a...)
	b[1] = "/y/f"
	if id(a) == id(b) {
		t.Error("two unreadable files share an ID")
	}
}
