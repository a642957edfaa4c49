package store

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// TestMeanings: what answers of S3 and its like mean to the caller, by operation.
func TestMeanings(t *testing.T) {
	conditional := PutOptions{IfNoneMatch: true}
	matching := PutOptions{IfMatch: `"e"`}
	for _, test := range []struct {
		status    int
		code      string
		o         PutOptions
		want      error // of Put
		transient bool
	}{
		{http.StatusPreconditionFailed, "PreconditionFailed", conditional, ErrPrecondition, false},
		{http.StatusConflict, "ConditionalRequestConflict", conditional, ErrPrecondition, false},
		{http.StatusConflict, "OperationAborted", matching, ErrPrecondition, false},
		{http.StatusConflict, "SomethingNew", conditional, ErrPrecondition, false},
		{http.StatusConflict, "OperationAborted", PutOptions{}, nil, true},
		{http.StatusConflict, "ObjectParentIsFile", conditional, ErrKey, false},
		{http.StatusNotFound, "NoSuchKey", matching, ErrPrecondition, false},
		{http.StatusNotFound, "NoSuchBucket", conditional, nil, true},
		{http.StatusForbidden, "AccessDenied", conditional, ErrAuth, false},
		{http.StatusForbidden, "SomethingNew", conditional, ErrAuth, false},
		{http.StatusUnauthorized, "Unauthorized", PutOptions{}, ErrAuth, false},
		{http.StatusNotFound, "XAdminUserNotFound", PutOptions{}, ErrAuth, false},
		{http.StatusBadRequest, "ExpiredToken", PutOptions{}, ErrAuth, false},
		{http.StatusBadRequest, "BadDigest", PutOptions{}, ErrDigest, false},
		{http.StatusBadRequest, "XAmzContentSHA256Mismatch", PutOptions{}, ErrDigest, false},
		{http.StatusNotImplemented, "NotImplemented", conditional, ErrUnsupported, false},
		{http.StatusBadRequest, "KeyTooLongError", PutOptions{}, ErrKey, false},
		{http.StatusBadRequest, "EntityTooLarge", PutOptions{}, nil, false},
		{http.StatusBadRequest, "RequestTimeout", PutOptions{}, nil, true},
		{http.StatusTooManyRequests, "", PutOptions{}, nil, true},
		{http.StatusInternalServerError, "InternalError", PutOptions{}, nil, true},
		{http.StatusBadGateway, "", PutOptions{}, nil, true},
		{http.StatusGatewayTimeout, "", PutOptions{}, nil, true},
		{http.StatusInsufficientStorage, "XMinioStorageFull", PutOptions{}, nil, true},
	} {
		t.Run(fmt.Sprintf("%d %s %v", test.status, test.code, test.o), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := pretend(t, func(r *http.Request) (*http.Response, error) {
					if r.Method == http.MethodHead {
						return respond(r, http.StatusForbidden, ""), nil // may write, may not read
					}
					return s3Failure(r, test.status, test.code), nil
				})
				err := putText(t.Context(), s, test.o)
				if err == nil || test.want != nil && !errors.Is(err, test.want) {
					t.Errorf("%v, want %v", err, test.want)
				}
				for _, e := range []error{ErrNotFound, ErrPrecondition, ErrDigest, ErrKey, ErrAuth, ErrUnsupported} {
					if errors.Is(err, e) && e != test.want {
						t.Errorf("%v is also %v", err, e)
					}
				}
				if _, ok := Transient(err); ok != test.transient {
					t.Errorf("%v: transient %t", err, ok)
				}
			})
		})
	}
}

// TestRequest is what goes over the wire: the digest as checksum and in the signature, the condition, the properties.
func TestRequest(t *testing.T) {
	t.Parallel()
	text := []byte("text")
	digest := "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"
	var got http.Header
	s := pretend(t, func(r *http.Request) (*http.Response, error) {
		b, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Equal(b, text) {
			t.Errorf("body %q, %v", b, err)
		}
		if r.URL.EscapedPath() != "/b/p/noarch/a%2Bb%21c%20d.conda" {
			t.Errorf("path %s", r.URL.EscapedPath())
		}
		got = r.Header.Clone()
		return respond(r, http.StatusOK, "", "ETag", `"e"`), nil
	})
	info, err := s.Put(t.Context(), "noarch/a+b!c d.conda", counting{bytes.NewReader(text), t, new(int64)}, 4, PutOptions{
		SHA256: digest, IfNoneMatch: true, ContentType: "text/plain", CacheControl: "immutable",
	})
	if err != nil || info.ETag != `"e"` || info.SHA256 != digest {
		t.Errorf("%+v %v", info, err)
	}
	for h, want := range map[string]string{
		"X-Amz-Content-Sha256":  digest,
		"X-Amz-Checksum-Sha256": "mC2ePrmW9VnmM/TRlN7zdh2Qn1o7ZH0ahR/q1nwyydE=",
		"X-Amz-Meta-Sha256":     digest,
		"If-None-Match":         "*",
		"Content-Type":          "text/plain",
		"Cache-Control":         "immutable",
		"Content-Encoding":      "", // no aws-chunked
		"X-Amz-Trailer":         "",
	} {
		if got.Get(h) != want {
			t.Errorf("%s: %q, want %q", h, got.Get(h), want)
		}
	}
}

// TestBodyFails: the caller's body, not the store, so nothing is tried again, whatever the transport makes of it.
func TestBodyFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := errors.New("disk on fire")
		n := 0
		s := pretend(t, func(r *http.Request) (*http.Response, error) {
			n++
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return nil, fmt.Errorf("transport connection broken: %w", err)
			}
			return respond(r, http.StatusOK, ""), nil
		})
		_, err := s.Put(t.Context(), "k", failing{disk}, 4, PutOptions{SHA256: strings.Repeat("0", 64)})
		if _, again := Transient(err); !errors.Is(err, disk) || again || n != 1 {
			t.Errorf("%d attempts: %v", n, err)
		}
	})
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

// counting fails the test when the body is read a second time.
type counting struct {
	io.ReaderAt
	t *testing.T
	n *int64
}

func (c counting) ReadAt(p []byte, at int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(p, at)
	if *c.n += int64(n); *c.n > 4 {
		c.t.Errorf("%d bytes were read of 4", *c.n)
	}
	return n, err
}

func TestCRC64NVME(t *testing.T) {
	t.Parallel()
	// The check value of the CRC catalogue.
	if crc := crc64.Checksum([]byte("123456789"), crc64.MakeTable(nvme)); crc != 0xae8b14860a799888 {
		t.Errorf("%x", crc)
	}
	if s := *crc64Text(0xae8b14860a799888); s != "rosUhgp5mIg=" {
		t.Error(s)
	}
}

func TestPartSize(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{1, 16 << 20, 64<<20 + 1, 5 << 40, 48 << 40} {
		part := partSize(size, defaultPartSize)
		if n := (size + part - 1) / part; part < defaultPartSize || n > maxParts {
			t.Errorf("%d bytes: %d parts of %d", size, n, part)
		}
	}
}

func TestKnownSHA256(t *testing.T) {
	t.Parallel()
	digest := strings.Repeat("ab", 32)
	raw := bytes.Repeat([]byte{0xab}, 32)
	b64 := base64.StdEncoding.EncodeToString(raw)
	composite, short := b64+"-3", base64.StdEncoding.EncodeToString(raw[:31])
	for _, test := range []struct {
		checksum *string
		kind     types.ChecksumType
		noted    string
		want     string
	}{
		{&b64, types.ChecksumTypeFullObject, "", digest},
		{&b64, "", "", digest}, // older stores do not say
		{&b64, types.ChecksumTypeComposite, "", ""},
		{&composite, "", "", ""},
		{&short, types.ChecksumTypeFullObject, "", ""},
		{nil, "", digest, digest},
		{nil, "", strings.ToUpper(digest), ""},
		{nil, "", "abc", ""},
		{&composite, types.ChecksumTypeComposite, digest, digest},
	} {
		if got := knownSHA256(test.checksum, test.kind, map[string]string{shaMetadata: test.noted}); got != test.want {
			t.Errorf("%+v: %q", test, got)
		}
	}
}

// TestDisorder: a listing that is not ordered by key is refused, not passed on.
func TestDisorder(t *testing.T) {
	t.Parallel()
	s := pretend(t, func(r *http.Request) (*http.Response, error) {
		return respond(r, http.StatusOK, `<ListBucketResult><IsTruncated>false</IsTruncated>`+
			`<Contents><Key>p/</Key><Size>0</Size></Contents><Contents><Key>p/b</Key></Contents><Contents><Key>p/a</Key></Contents></ListBucketResult>`), nil
	})
	var keys []string
	var last error
	for info, err := range s.List(t.Context(), "") {
		keys, last = append(keys, info.Key), err
	}
	if !errors.Is(last, ErrUnsupported) || len(keys) != 2 || keys[0] != "b" {
		t.Errorf("%q %v", keys, last)
	}
}

func TestNewS3(t *testing.T) {
	for what, c := range map[string]S3Config{
		"no bucket":   {Region: "r"},
		"a path":      {Region: "r", Bucket: "a/b"},
		"bad prefix":  {Region: "r", Bucket: "b", Prefix: "a/../b"},
		"small parts": {Region: "r", Bucket: "b", PartSize: 1000},
	} {
		if _, err := NewS3(t.Context(), c); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
	// Without credentials, nothing is sent. The chain is cut short of the instance's metadata, which is asked over the network.
	for _, v := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE",
		"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"} {
		t.Setenv(v, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	if _, err := NewS3(t.Context(), S3Config{Bucket: "b"}); err == nil || !strings.Contains(err.Error(), "AWS_REGION") {
		t.Errorf("no region: %v", err)
	}
	s, err := NewS3(t.Context(), S3Config{Bucket: "b", Region: "r", Transport: answer(func(r *http.Request) (*http.Response, error) {
		t.Error("a request was sent")
		return respond(r, http.StatusOK, ""), nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	if err := putText(t.Context(), s, PutOptions{}); !errors.Is(err, ErrAuth) {
		t.Errorf("no credentials: %v, want ErrAuth", err)
	}

	// The endpoint of the environment, with path style and a region by default.
	t.Setenv("AWS_ENDPOINT_URL_S3", "http://s3.invalid:9000")
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	var asked string
	st, err := Open(t.Context(), "s3://b/pre/fix/", answer(func(r *http.Request) (*http.Response, error) {
		asked = r.URL.String()
		return respond(r, http.StatusNotFound, ""), nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Head(t.Context(), "k"); !errors.Is(err, ErrNotFound) || asked != "http://s3.invalid:9000/b/pre/fix/k" {
		t.Errorf("asked %s: %v", asked, err)
	}
	if st.String() != "s3://b/pre/fix" {
		t.Error(st)
	}
}

func TestCredentialsAreNotPrinted(t *testing.T) {
	t.Parallel()
	c := S3Config{Credentials: &Credentials{SecretAccessKey: "hunter2"}}
	for _, s := range []string{fmt.Sprintf("%v", *c.Credentials), fmt.Sprintf("%+v", *c.Credentials), fmt.Sprintf("%#v", *c.Credentials), fmt.Sprint(c.Credentials), fmt.Sprint(*c.Credentials)} {
		if strings.Contains(s, "hunter2") {
			t.Error(s)
		}
	}
}
