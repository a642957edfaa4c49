package pipeline

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// TestBundleThroughJSON: every byte of a bundle comes out of a queue as it went in.
func TestBundleThroughJSON(t *testing.T) {
	t.Parallel()
	for in, raw := range map[string]bool{
		`{}`:                                  true,
		`{"mediaType":"x","a":[1,{"b":"c"}]}`: true,
		`{"a":"<"}`:                           false,
		`{"a":"\u003c"}`:                      true,
		"{\n \"a\": 1\n}":                     false,
		` {"a":1}`:                            false,
		"{\"a\":\"\u2028\"}":                  false,
		"{\"a\":\"\xff\"}":                    true, // what encoding/json leaves alone is not for us to put right
		`[]`:                                  false,
		`"e30="`:                              false,
		`no JSON`:                             false,
	} {
		b, err := json.Marshal(Item{Bundle: Bundle(in), Brought: []Bundle{Bundle(in)}})
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		var it Item
		if err := json.Unmarshal(b, &it); err != nil || string(it.Bundle) != in || string(it.Brought[0]) != in {
			t.Errorf("%q became %q, %q (%v)", in, it.Bundle, it.Brought, err)
		}
		if got := strings.Contains(string(b), `"bundle":`+in); got != raw {
			t.Errorf("%q is written as it is: %t, want %t", in, got, raw)
		}
	}
	for _, bad := range []string{`{"bundle":1}`, `{"bundle":"!"}`, `{"bundle":[]}`, `{"brought":{}}`} {
		if err := json.Unmarshal([]byte(bad), new(Item)); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
	var none Item
	if b, err := json.Marshal(none); err != nil || bytes.Contains(b, []byte("bundle")) || bytes.Contains(b, []byte("riders")) {
		t.Errorf("%s, %v", b, err)
	}
}

// FuzzBundle: whatever the bytes are.
func FuzzBundle(f *testing.F) {
	f.Add([]byte(`{"a":"&"}`))
	f.Add([]byte("{ }"))
	f.Add([]byte(`{"a":1}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		b, err := json.Marshal(Rider{Bundle: in})
		if err != nil {
			t.Fatal(err)
		}
		var r Rider
		if err := json.Unmarshal(b, &r); err != nil || !bytes.Equal(r.Bundle, in) {
			t.Fatalf("%q became %q (%v)", in, r.Bundle, err)
		}
	})
}

func TestPolicyOfACampaign(t *testing.T) {
	t.Parallel()
	valid := func() *Campaign {
		return &Campaign{Name: "a", To: "/x", NoTargetChannel: true, Policy: NewPolicy([]byte("text")), NoSign: true}
	}
	if err := valid().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Campaign){
		"another text":        func(c *Campaign) { c.Policy.Text += " " },
		"another digest":      func(c *Campaign) { c.Policy.SHA256 = strings.Repeat("0", 64) },
		"an empty policy":     func(c *Campaign) { c.Policy = NewPolicy(nil) },
		"no policy, unsigned": func(c *Campaign) { c.Policy = nil },
	} {
		c := valid()
		change(c)
		if err := c.Validate(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestItemIDOfBrought(t *testing.T) {
	t.Parallel()
	id := func(brought ...Bundle) string { return ItemID("s", "", "c", "d", "f", "p", brought...) }
	again := id(Bundle("a"))
	if id() == id(Bundle("a")) || id(Bundle("a")) == id(Bundle("b")) || id(Bundle("a"), Bundle("b")) == id(Bundle("ab")) || id(Bundle("a")) != again {
		t.Error("what is brought along is not part of an item's key")
	}
	it := &Item{Bundle: Bundle("123"), Brought: []Bundle{Bundle(" 12 ")}, Riders: []Rider{{Bundle: Bundle("1")}}}
	if it.AttestationBytes() != 8 || !it.Carries(Bundle("12")) || !it.Carries(Bundle("1\n")) || it.Carries(Bundle("123")) {
		t.Errorf("%d", it.AttestationBytes())
	}
}
