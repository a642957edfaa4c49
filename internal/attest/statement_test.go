package attest

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\n got %s\nwant %s", path, got, want)
	}
}

const cepSHA256 = "01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b"

func TestStatementGolden(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][3]string{
		"statement.json":      {"file-name-0.0.1-h123456_5.conda", cepSHA256, "https://prefix.dev/conda-forge"}, // CEP 27's example
		"statement-null.json": {"_x-1!2.0+local-Build_0.tar.bz2", cepSHA256, ""},
	} {
		st, err := Statement(args[0], args[1], args[2])
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, st)
		c, err := parseStatement(st)
		if err != nil || c.Filename != args[0] || c.SHA256 != args[1] {
			t.Errorf("read back: %+v, %v", c, err)
		}
	}
}

func TestStatementRefuses(t *testing.T) {
	t.Parallel()
	const file = "a-1-0.conda"
	for _, tt := range []struct {
		file, sha256, channel string
		want                  Code
	}{
		{file, cepSHA256, "", ""},
		{strings.Repeat("a", 205) + ".conda", cepSHA256, "", ""},
		{strings.Repeat("a", 206) + ".conda", cepSHA256, "", CodeFilename},
		{"", cepSHA256, "", CodeFilename},
		{".conda", cepSHA256, "", CodeFilename},
		{".tar.bz2", cepSHA256, "", CodeFilename},
		{"a-1-0.zip", cepSHA256, "", CodeFilename},
		{"a-1-0.CONDA", cepSHA256, "", CodeFilename},
		{"noarch/a-1-0.conda", cepSHA256, "", CodeFilename},
		{`noarch\a-1-0.conda`, cepSHA256, "", CodeFilename},
		{"..-1-0.conda", cepSHA256, "", CodeFilename},
		{"a-1-0\n.conda", cepSHA256, "", CodeFilename},
		{"a-1-0\u00e9.conda", cepSHA256, "", CodeFilename},
		{"a-1-0\xff.conda", cepSHA256, "", CodeFilename},
		{"a<b>-1-0.conda", cepSHA256, "", CodeFilename},
		{file, "", "", CodeDigest},
		{file, cepSHA256[1:], "", CodeDigest},
		{file, cepSHA256 + "0", "", CodeDigest},
		{file, strings.ToUpper(cepSHA256), "", CodeDigest},
		{file, "g" + cepSHA256[1:], "", CodeDigest},
		{file, cepSHA256, "s3://bucket/channel", CodeChannelScheme},
	} {
		st, err := Statement(tt.file, tt.sha256, tt.channel)
		wantCode(t, err, tt.want)
		if (st == nil) != (tt.want != "") {
			t.Errorf("%q: statement %s beside %v", tt.file, st, err)
		}
	}
}

func FuzzParseStatement(f *testing.F) {
	for _, tt := range statementFaults() {
		f.Add([]byte(tt.statement))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseStatement(data)
		if err != nil {
			if CodeOf(err) == "" {
				t.Errorf("an error without a code: %v", err)
			}
			return
		}
		if !isSHA256(c.SHA256) {
			t.Errorf("accepted the digest %q", c.SHA256)
		}
	})
}
