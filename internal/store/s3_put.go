package store

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"
)

// Put implements Store: one request, or parts above S3Config.MultipartAbove. Info.Modified is zero, for S3 does not say.
//
// The body is read once per attempt where SHA256 is given and the object goes in one request. Otherwise it is read twice: the store
// wants a digest before the bytes. A body that changes between the two is refused with ErrDigest.
func (s *S3) Put(ctx context.Context, key string, body io.ReaderAt, size int64, o PutOptions) (Info, error) {
	info, err := s.put(ctx, key, body, size, o)
	if err != nil {
		return Info{}, fmt.Errorf("putting %s in %s: %w", key, s, err)
	}
	return info, nil
}

func (s *S3) put(ctx context.Context, key string, body io.ReaderAt, size int64, o PutOptions) (Info, error) {
	if err := cmpErr(ctx.Err(), checkKey(key), checkOptions(size, o)); err != nil {
		return Info{}, err
	}
	if size > s.multipartAbove {
		return s.putParts(ctx, key, body, size, o)
	}
	sum, err := hex.DecodeString(o.SHA256)
	if err != nil || o.SHA256 == "" {
		h := sha256.New()
		if err := readBody(ctx, body, 0, size, h); err != nil {
			return Info{}, err
		}
		sum = h.Sum(nil)
	}
	digest := hex.EncodeToString(sum)
	in := &s3.PutObjectInput{
		Bucket: &s.bucket, Key: s.name(key),
		Body: sent(body, 0, size), ContentLength: &size,
		ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(sum)),
		Metadata:       map[string]string{shaMetadata: digest},
		ContentType:    given(o.ContentType), CacheControl: given(o.CacheControl),
		IfMatch: given(o.IfMatch), IfNoneMatch: ifNoneMatch(o),
	}
	out, err := s.client.PutObject(ctx, in, withPayloadHash(digest), s.checkAgain(key, size, o), func(so *s3.Options) { so.Retryer = s.putRetryer })
	if err != nil {
		return Info{}, putError(o, s3Error(ctx, err))
	}
	return Info{Key: key, Size: size, ETag: aws.ToString(out.ETag), SHA256: digest}, nil
}

// lookFirst is the size in bytes above which a look at the condition costs less than a body that is sent in vain.
const lookFirst = 4 << 20

// checkAgain looks at the condition before every attempt but the first, and for large bodies before that too. A server may refuse a request without reading its body and close
// the connection: then the refusal is lost in the reset that our sending provokes, on every attempt, and only a look tells. It also saves
// sending a body again whose first sending succeeded while the answer was lost.
func (s *S3) checkAgain(key string, size int64, o PutOptions) func(*s3.Options) {
	return s3.WithAPIOptions(func(stack *middleware.Stack) error {
		if !o.IfNoneMatch && o.IfMatch == "" {
			return nil
		}
		again := size > lookFirst
		return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("HallmarkCondition", func(
			ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler,
		) (middleware.FinalizeOutput, middleware.Metadata, error) {
			if again {
				// Whoever may write but not read goes on without.
				if err := s.holds(ctx, key, o); errors.Is(err, ErrPrecondition) {
					return middleware.FinalizeOutput{}, middleware.Metadata{}, err
				}
			}
			again = true
			return next.HandleFinalize(ctx, in)
		}), "Retry", middleware.After)
	})
}

// putError says in the words of the contract what the store said in those of the protocol.
func putError(o PutOptions, err error) error {
	switch {
	case o.IfMatch != "" && errors.Is(err, ErrNotFound):
		return fmt.Errorf("%w: the object is gone: %v", ErrPrecondition, err)
	case o.IfMatch == "" && !o.IfNoneMatch && errors.Is(err, ErrPrecondition):
		// A conflict with another write, though we set no condition: not for the caller to decide.
		return &outage{err: fmt.Errorf("conflict with another write: %v", err)}
	}
	return err
}

// readBody reads a stretch of the body into w, which does not fail.
func readBody(ctx context.Context, body io.ReaderAt, at, size int64, w ...io.Writer) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for done := int64(0); done < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := body.ReadAt((*buf)[:min(int64(len(*buf)), size-done)], at+done)
		for _, w := range w {
			w.Write((*buf)[:n])
		}
		done += int64(n)
		if done < size && (n == 0 || err != nil) {
			return &bodyError{shortBody(at+done, at+size, err)}
		}
	}
	return nil
}

func given(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func ifNoneMatch(o PutOptions) *string {
	if o.IfNoneMatch {
		return aws.String("*")
	}
	return nil
}
