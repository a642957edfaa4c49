package prefix

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
)

// form is the body of an upload: multipart/form-data (RFC 7578) with the parts "file" and "attestation", read as it is sent.
// Its size is known before. The package's digest is computed on the way; other bytes than the promised ones never go out
// whole, so that the server cannot take them.
type form struct {
	boundary string
	size     int64
	done     chan struct{} // closed by Close

	mu     sync.Mutex
	r      io.Reader
	err    error // why the package could not be read
	closed bool
}

// newForm lays the parts out. Names need no escaping: conda.ParseFilename has passed the file's.
func newForm(p Package, bundle []byte) *form {
	f := &form{boundary: rand.Text() + rand.Text(), done: make(chan struct{})}
	var head, tail bytes.Buffer
	fmt.Fprintf(&head, "--%s\r\nContent-Disposition: form-data; name=\"file\"; filename=\"%s\"\r\n"+
		"Content-Type: application/octet-stream\r\nContent-Length: %d\r\nX-File-Name: %s\r\nX-File-SHA256: %s\r\n\r\n",
		f.boundary, p.Filename, p.Size, p.Filename, p.SHA256)
	fmt.Fprintf(&tail, "\r\n--%s\r\nContent-Disposition: form-data; name=\"attestation\"\r\n\r\n", f.boundary)
	tail.Write(bundle)
	fmt.Fprintf(&tail, "\r\n--%s--\r\n", f.boundary)
	f.size = int64(head.Len()) + p.Size + int64(tail.Len())
	f.r = io.MultiReader(&head, &checked{r: io.NewSectionReader(p.Body, 0, p.Size), left: p.Size, sum: sha256.New(), want: p.SHA256}, &tail)
	return f
}

func (f *form) contentType() string { return "multipart/form-data; boundary=" + f.boundary }

// Read implements io.Reader. A transport may still be in it after it has given its answer; Close waits for that, and
// nothing is read after it.
func (f *form) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, errors.New("read after close")
	}
	n, err := f.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

// Close implements io.Closer.
func (f *form) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		close(f.done)
	}
	return nil
}

// failed says why the package could not be read, if it could not.
func (f *form) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// checked reads a package and withholds its last bytes unless all of them together are what was promised.
type checked struct {
	r    io.Reader
	left int64
	sum  hash.Hash
	want string
}

func (c *checked) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.r.Read(p)
	c.sum.Write(p[:n])
	c.left -= int64(n)
	switch {
	case c.left == 0:
		if got := hex.EncodeToString(c.sum.Sum(nil)); got != c.want {
			return 0, fmt.Errorf("%w: sha256 %s, not %s", ErrDigest, got, c.want)
		}
		return n, nil
	case errors.Is(err, io.EOF):
		return 0, fmt.Errorf("%w: %d bytes fewer", ErrDigest, c.left)
	case err != nil:
		return 0, fmt.Errorf("reading the package: %w", err)
	}
	return n, nil
}
