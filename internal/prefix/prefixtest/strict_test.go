package prefixtest_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/prefix/prefixtest"
)

const filename = "a-1-0.conda"

// TestStrict: the server takes the form as it has to be, and nothing that differs from it in one place.
func TestStrict(t *testing.T) {
	t.Parallel()
	type sent struct {
		method, target, body string
		header               http.Header
		chunked              bool
	}
	replace := func(old, with string) func(*sent) {
		return func(s *sent) {
			if !strings.Contains(s.body, old) {
				panic("the form has no " + old)
			}
			s.body = strings.Replace(s.body, old, with, 1)
		}
	}
	for name, tt := range map[string]struct {
		change func(*sent)
		want   int
	}{
		"as it has to be":       {func(*sent) {}, 201},
		"names in lower case":   {replace("X-File-Name: ", "x-file-name: "), 201},
		"PUT":                   {func(s *sent) { s.method = http.MethodPut }, 400},
		"forced":                {func(s *sent) { s.target += "?force=true" }, 400},
		"other channel":         {func(s *sent) { s.target = "/api/v1/upload/other" }, 404},
		"no token":              {func(s *sent) { s.header.Del("Authorization") }, 401},
		"wrong token":           {func(s *sent) { s.header.Set("Authorization", "Bearer x") }, 401},
		"other scheme":          {func(s *sent) { s.header.Set("Authorization", "Basic good") }, 401},
		"header of the request": {func(s *sent) { s.header.Set("X-File-Sha256", "x") }, 400},
		"not a form":            {func(s *sent) { s.header.Set("Content-Type", "application/octet-stream") }, 400},
		"two types":             {func(s *sent) { s.header.Add("Content-Type", "text/plain") }, 400},
		"chunked":               {func(s *sent) { s.chunked = true }, 400},
		"preamble":              {func(s *sent) { s.body = "x\r\n" + s.body }, 400},
		"epilogue":              {func(s *sent) { s.body += "x" }, 400},
		"not ended":             {func(s *sent) { s.body = strings.TrimSuffix(s.body, "--\r\n") }, 400},
		"a third part":          {func(s *sent) { s.body = strings.TrimSuffix(s.body, "--\r\n") + "\r\n\r\nx\r\n--B--\r\n" }, 400},
		"other part's name":     {replace(`name="file"`, `name="package"`), 400},
		"no file name":          {replace(`; filename="`+filename+`"`, ""), 400},
		"other type":            {replace("application/octet-stream", "application/zip"), 400},
		"no length":             {replace("Content-Length: 20\r\n", ""), 400},
		"other length":          {replace("Content-Length: 20", "Content-Length: 21"), 400},
		"other name":            {replace("X-File-Name: a", "X-File-Name: b"), 400},
		"other digest":          {replace("X-File-SHA256: ", "X-File-SHA256: 0"), 400},
		"one more header":       {replace("X-File-Name: "+filename+"\r\n", "X-File-Name: "+filename+"\r\nX-More: 1\r\n"), 400},
		"other order":           {replace("Content-Type: application/octet-stream\r\nContent-Length: 20\r\n", "Content-Length: 20\r\nContent-Type: application/octet-stream\r\n"), 400},
		"attestation has type":  {replace(`name="attestation"`, `name="attestation"`+"\r\nContent-Type: application/json"), 400},
		"attestation is a file": {replace(`name="attestation"`, `name="attestation"; filename="x"`), 400},
		"attestation array": {func(s *sent) {
			s.body = strings.Replace(strings.Replace(s.body, `{"media`, `[{"media`, 1), "}]}}", "}]}}]", 1)
		}, 400},
		"no statement": {replace("in-toto", "x"), 422},
		"other bytes":  {replace("bytes.", "Bytes."), 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := prefixtest.New(t, "c")
			s.Accept("good")
			out := sent{http.MethodPost, "/api/v1/upload/c", form(s), http.Header{"Authorization": {"Bearer good"}, "Content-Type": {"multipart/form-data; boundary=B"}}, false}
			tt.change(&out)
			body := io.Reader(strings.NewReader(out.body))
			if out.chunked {
				body = struct{ io.Reader }{body}
			}
			req, err := http.NewRequestWithContext(t.Context(), out.method, s.URL+out.target, body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = out.header
			resp, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			broken := s.Violations()
			if resp.StatusCode != tt.want || (len(broken) != 0) != (tt.want == 400) {
				t.Errorf("answered %d; %v", resp.StatusCode, broken)
			}
			if got, _ := s.Served("noarch", filename); (got != nil) != (tt.want == 201) {
				t.Errorf("the channel has %q", got)
			}
		})
	}
}

func form(s *prefixtest.Server) string {
	body := []byte("subdir noarch\nbytes.")
	sum := sha256.Sum256(body)
	return fmt.Sprintf("--B\r\nContent-Disposition: form-data; name=\"file\"; filename=%q\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\nX-File-Name: %s\r\nX-File-SHA256: %s\r\n\r\n%s\r\n"+
		"--B\r\nContent-Disposition: form-data; name=\"attestation\"\r\n\r\n%s\r\n--B--\r\n",
		filename, len(body), filename, hex.EncodeToString(sum[:]), body, prefixtest.Bundle(filename, body, s.ChannelURL()))
}
