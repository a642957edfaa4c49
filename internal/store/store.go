// Package store takes objects in by key and gives them back by key: one small contract over S3 and over a directory.
//
// What flows in: bytes with the digest that they must have and the condition under which they may be written.
// What flows out: the bytes, an entity tag that changes whenever they do, and errors that say who was first.
//
// Every store passes the conformance suite in storetest. Keys are slash-separated and relative ("linux-64/a-1-0.conda"); a
// key that is empty, absolute, or has an empty, "." or ".." element is refused with ErrKey.
package store

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Errors that callers decide on. Match them with errors.Is.
var (
	// ErrNotFound says that there is no object under the key.
	ErrNotFound = errors.New("object not found")
	// ErrPrecondition says that somebody was first: the object exists (IfNoneMatch) or has changed (IfMatch).
	// It covers S3's 409 and 412 alike. It may be the echo of the caller's own request whose answer was lost:
	// the caller MUST read, compare, and go on if equal.
	ErrPrecondition = errors.New("precondition failed")
	// ErrDigest says that the bytes read from the body do not have the digest that was announced. Nothing was stored.
	ErrDigest = errors.New("digest mismatch")
	// ErrKey says that the key is not one that a store can hold.
	ErrKey = errors.New("invalid key")
	// ErrAuth says that the store refused the caller: credentials missing or wrong, or no right to do this.
	ErrAuth = errors.New("access denied")
	// ErrRange says that a range begins at or past the end of the object. Every range of an empty object does.
	ErrRange = errors.New("range begins past the end")
	// ErrUnsupported says that the store lacks what Hallmark cannot work without: conditional writes, checked digests.
	ErrUnsupported = errors.New("store lacks what Hallmark needs")
)

// Info says what is known of an object without its bytes.
type Info struct {
	Key  string
	Size int64
	// ETag identifies this state of the object for PutOptions.IfMatch. Opaque; not a content hash.
	ETag string
	// SHA256 is the lower-case hex digest of the bytes where the store knows it without reading them, else "".
	SHA256   string
	Modified time.Time
}

// Same tells whether both are of one state of one object, by all that the store said of it.
func (i Info) Same(o Info) bool {
	return i.Key == o.Key && i.Size == o.Size && i.ETag == o.ETag && i.Modified.Equal(o.Modified) &&
		(i.SHA256 == o.SHA256 || i.SHA256 == "" || o.SHA256 == "")
}

// PutOptions say under which condition and with which properties an object is written.
// The zero value overwrites unconditionally.
type PutOptions struct {
	// IfNoneMatch: create only; ErrPrecondition if the key exists.
	IfNoneMatch bool
	// IfMatch: change only the state with this ETag; ErrPrecondition if it is another one or gone.
	IfMatch string
	// SHA256 is the lower-case hex digest that the bytes MUST have; "" only for mutable documents whose writer
	// does not care. The store itself checks it (S3: checksum header and signed payload hash); ErrDigest if it differs.
	SHA256 string
	// ContentType and CacheControl are kept where the store can keep them.
	ContentType  string
	CacheControl string
}

// Store holds objects. Every method may be called concurrently. Errors that are none of the above are failures of the
// store; Transient tells whether trying again may help.
type Store interface {
	// Put writes size bytes of body under key, atomically and durably: a reader sees the old bytes or the new ones.
	// The body is read through ReadAt, from offset 0 and once per attempt where the store can (see S3.Put for when it cannot). It MUST
	// NOT change meanwhile. Info has what the store knows at once; Modified may be zero.
	Put(ctx context.Context, key string, body io.ReaderAt, size int64, o PutOptions) (Info, error)
	// Get opens an object; the caller closes it. Info belongs to the bytes that are read.
	Get(ctx context.Context, key string) (io.ReadCloser, Info, error)
	// GetRange opens the bytes [offset, offset+length) of one object; the caller closes them. length MUST be positive. A range that
	// reaches past the end gives what is there; one that begins there is ErrRange. A negative offset is a suffix: the last
	// -offset bytes, or the whole object if it has fewer; length is then of no meaning.
	// etag, unless "", is the one state whose bytes are wanted: ErrPrecondition if the object has another now.
	// Info is of the whole object: Size is not the range's. Whoever wants several ranges of one state MUST give the ETag that came with the
	// first, and MUST check the others' Info by Same: during an overwrite, versitygw answers with the old ETag and the new bytes. OpenReaderAt does both.
	// A body that ends before the range does ends with an error,
	// not EOF. Unlike Get, no store checks the bytes of a range against a digest.
	GetRange(ctx context.Context, key string, offset, length int64, etag string) (io.ReadCloser, Info, error)
	// Head says what is known of an object.
	Head(ctx context.Context, key string) (Info, error)
	// List yields the objects whose key starts with prefix, ordered by key.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// Folders yields the first elements of the keys that have more than one, in order, without listing what is below them.
	Folders(ctx context.Context) iter.Seq2[string, error]
	// Delete removes objects; a key that does not exist is not an error.
	Delete(ctx context.Context, keys ...string) error
	// String names the store for messages: "s3://bucket/prefix" or the directory's path. It holds no credentials.
	String() string
}
