package store

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
)

// shaMetadata is the object's metadata under which Put keeps the digest: for objects in parts the store has none of the whole.
const shaMetadata = "sha256"

// Get implements Store. A read that waits longer than a minute for the store fails, as does the read of the end if the bytes do
// not have the checksum that the store keeps.
func (s *S3) Get(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	fail := func(err error) (io.ReadCloser, Info, error) {
		return nil, Info{}, fmt.Errorf("getting %s from %s: %w", key, s, err)
	}
	if err := checkKey(key); err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{
		Bucket: &s.bucket, Key: s.name(key), ChecksumMode: types.ChecksumModeEnabled,
	})
	if err != nil {
		err = s3Error(ctx, err) // looks at the context, so before its end
		cancel(nil)
		return fail(err)
	}
	info := gotInfo(key, out)
	return newBody(ctx, cancel, out.Body, fmt.Sprintf("reading %s from %s", key, s)), info, nil
}

// gotInfo is what an answer with a body says of the object, if the body is all of it.
func gotInfo(key string, out *s3.GetObjectOutput) Info {
	return Info{
		Key: key, Size: aws.ToInt64(out.ContentLength), ETag: aws.ToString(out.ETag), Modified: aws.ToTime(out.LastModified),
		SHA256: knownSHA256(out.ChecksumSHA256, out.ChecksumType, out.Metadata),
	}
}

// Head implements Store. SHA256 is the checksum that the store has verified, or, for an object in parts, what its writer
// noted in the metadata "sha256".
func (s *S3) Head(ctx context.Context, key string) (Info, error) {
	info, err := s.head(ctx, key)
	if err != nil {
		return Info{}, fmt.Errorf("looking up %s in %s: %w", key, s, err)
	}
	return info, nil
}

func (s *S3) head(ctx context.Context, key string) (Info, error) {
	if err := checkKey(key); err != nil {
		return Info{}, err
	}
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{
		Bucket: &s.bucket, Key: s.name(key), ChecksumMode: types.ChecksumModeEnabled,
	})
	if err != nil {
		return Info{}, s3Error(ctx, err)
	}
	return Info{
		Key: key, Size: aws.ToInt64(out.ContentLength), ETag: aws.ToString(out.ETag), Modified: aws.ToTime(out.LastModified),
		SHA256: knownSHA256(out.ChecksumSHA256, out.ChecksumType, out.Metadata),
	}, nil
}

// knownSHA256 returns the digest in lower-case hex, or "" if what is there is not one of the whole object.
func knownSHA256(checksum *string, kind types.ChecksumType, metadata map[string]string) string {
	if checksum != nil && kind != types.ChecksumTypeComposite {
		if b, err := base64.StdEncoding.DecodeString(*checksum); err == nil && len(b) == 32 {
			return hex.EncodeToString(b)
		}
	}
	noted := metadata[shaMetadata]
	if b, err := hex.DecodeString(noted); err == nil && len(b) == 32 && strings.ToLower(noted) == noted {
		return noted
	}
	return ""
}

// List implements Store, a page of 1,000 objects at a time.
func (s *S3) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		fail := func(err error) { yield(Info{}, fmt.Errorf("listing %q in %s: %w", prefix, s, err)) }
		if err := checkPrefix(prefix); err != nil {
			fail(err)
			return
		}
		pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: s.name(prefix)})
		last := ""
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				fail(s3Error(ctx, err))
				return
			}
			for _, o := range page.Contents {
				key := strings.TrimPrefix(aws.ToString(o.Key), s.prefix)
				if checkKey(key) != nil {
					continue
				}
				if key <= last {
					// Callers merge listings by order. Directory buckets of S3 have none.
					fail(fmt.Errorf("%w: %q is listed after %q", ErrUnsupported, key, last))
					return
				}
				last = key
				if !yield(Info{
					Key: key, Size: aws.ToInt64(o.Size), ETag: aws.ToString(o.ETag), Modified: aws.ToTime(o.LastModified),
				}, nil) {
					return
				}
			}
		}
	}
}

// Folders implements Store.
func (s *S3) Folders(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: s.name(""), Delimiter: aws.String("/")})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield("", fmt.Errorf("listing the folders of %s: %w", s, s3Error(ctx, err)))
				return
			}
			for _, p := range page.CommonPrefixes {
				folder := strings.TrimSuffix(strings.TrimPrefix(aws.ToString(p.Prefix), s.prefix), "/")
				if checkKey(folder) == nil && !yield(folder, nil) {
					return
				}
			}
		}
	}
}

// deleteAtOnce is how many objects S3 deletes by one request.
const deleteAtOnce = 1000

// Delete implements Store. Keys are deleted a thousand at a time; the error joins all failures.
func (s *S3) Delete(ctx context.Context, keys ...string) error {
	var errs []error
	fail := func(key string, err error) {
		errs = append(errs, fmt.Errorf("deleting %s from %s: %w", key, s, err))
	}
	var batch []types.ObjectIdentifier
	for i, key := range keys {
		if err := checkKey(key); err != nil {
			fail(key, err)
		} else {
			batch = append(batch, types.ObjectIdentifier{Key: s.name(key)})
		}
		if len(batch) == deleteAtOnce || i == len(keys)-1 {
			s.deleteBatch(ctx, batch, fail)
			batch = batch[:0]
		}
	}
	return errors.Join(errs...)
}

func (s *S3) deleteBatch(ctx context.Context, batch []types.ObjectIdentifier, fail func(string, error)) {
	key := func(name *string) string { return strings.TrimPrefix(aws.ToString(name), s.prefix) }
	switch len(batch) {
	case 0:
		return
	case 1: // a right of its own in many policies, and the only way that some stores know
		_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: batch[0].Key})
		if err := s3Error(ctx, err); err != nil && !errors.Is(err, ErrNotFound) {
			fail(key(batch[0].Key), err)
		}
		return
	}
	out, err := s.client.DeleteObjects(ctx, &s3.DeleteObjectsInput{
		Bucket: &s.bucket, Delete: &types.Delete{Objects: batch, Quiet: aws.Bool(true)},
	})
	if err != nil {
		fail(fmt.Sprintf("%s and %d more", key(batch[0].Key), len(batch)-1), s3Error(ctx, err))
		return
	}
	for _, e := range out.Errors {
		err := s3Error(ctx, &smithy.GenericAPIError{Code: aws.ToString(e.Code), Message: aws.ToString(e.Message)})
		if !errors.Is(err, ErrNotFound) {
			fail(key(e.Key), err)
		}
	}
}

// idle is how long a reader waits for the next bytes.
const idle = time.Minute

// body ends a read that has stalled, and says what was read when something fails.
type body struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	what   string
}

func newBody(ctx context.Context, cancel context.CancelCauseFunc, r io.ReadCloser, what string) *body {
	timer := time.AfterFunc(idle, func() { cancel(errStalled) })
	timer.Stop()
	return &body{ReadCloser: r, ctx: ctx, cancel: cancel, timer: timer, what: what}
}

func (b *body) Read(p []byte) (int, error) {
	b.timer.Reset(idle)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && err != io.EOF {
		if context.Cause(b.ctx) == errStalled {
			err = errStalled
		}
		err = fmt.Errorf("%s: %w", b.what, readError(err))
	}
	return n, err
}

func (b *body) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	return b.ReadCloser.Close()
}
