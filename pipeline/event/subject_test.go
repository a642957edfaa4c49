package event

import (
	"strings"
	"testing"
)

func TestSubject(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		in   Tokens
		want string
	}{
		{Tokens{"signed", "c", "conda.example.org/forge", "linux-64", "ruamel.yaml", "0a"}, "attest.v1.signed.c.conda%2Eexample%2Eorg/forge.linux-64.ruamel%2Eyaml.0a"},
		{Tokens{Event: "failed", Campaign: "c", ID: "0a"}, "attest.v1.failed.c._._._.0a"},
		{Tokens{"e", "_", "*", ">", "a b\t%", "é\x7f\xff"}, "attest.v1.e.%5F.%2A.%3E.a%20b%09%25.%C3%A9%7F%FF"},
		{Tokens{"e", "__", "x+y!1", "$JS", "a~b", "-"}, "attest.v1.e.__.x+y!1.$JS.a~b.-"},
	} {
		got := Subject(tc.in.Event, tc.in.Campaign, tc.in.Channel, tc.in.Subdir, tc.in.Name, tc.in.ID)
		if got != tc.want {
			t.Errorf("Subject(%+v) = %s, want %s", tc.in, got, tc.want)
		}
		if back, err := ParseSubject(got); err != nil || back != tc.in {
			t.Errorf("ParseSubject(%s) = %+v, %v", got, back, err)
		}
	}
}

func TestLongTokensStayDistinct(t *testing.T) {
	t.Parallel()
	for _, fill := range []string{"x", ".", "a.", "ab."} {
		long := strings.Repeat(fill, 1000)
		a, b := escape(long+"1"), escape(long+"2")
		if a == b || len(a) > maxToken {
			t.Errorf("%q: %d bytes, the same: %t", fill, len(a), a == b)
		}
		if _, err := unescape(a); err != nil {
			t.Errorf("%q: cut through an escape: %v", fill, err)
		}
	}
}

func TestParseSubjectRefuses(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "attest.v1", "attest.v1.", "attest.v2.a.b.c.d.e.f", "attest.v1.a.b.c.d.e", "attest.v1.a.b.c.d.e.f.g",
		"attest.v1.a.b.c.d..f", "attest.v1.a.b.c.d.e.%", "attest.v1.a.b.c.d.e.%2", "attest.v1.a.b.c.d.e.%zz"} {
		if got, err := ParseSubject(s); err == nil {
			t.Errorf("ParseSubject(%q) = %+v", s, got)
		}
	}
}

func FuzzSubject(f *testing.F) {
	f.Add("signed", "c", "conda.example.org/forge", "linux-64", "ruamel.yaml", "0a")
	f.Add("", "_", "*", ">", "a b\t%", "é\x7f\xff")
	f.Fuzz(func(t *testing.T, event, campaign, channel, subdir, name, id string) {
		in := Tokens{event, campaign, channel, subdir, name, id}
		s := Subject(event, campaign, channel, subdir, name, id)
		if strings.ContainsAny(s, " \t\r\n*>\x00") || strings.Count(s, ".") != 7 || strings.Contains(s, "..") || len(s) > 2000 {
			t.Fatalf("not a subject to publish to: %q", s)
		}
		back, err := ParseSubject(s)
		if err != nil {
			t.Fatal(err)
		}
		if len(s) < maxToken && back != in {
			t.Fatalf("%+v came back as %+v", in, back)
		}
	})
}
