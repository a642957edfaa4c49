package store

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// GetRange implements Store by one request. SHA256 is what the object's writer noted in the metadata "sha256". A store that does
// not answer with the range that was asked for, as some compatible ones do with suffixes, is ErrUnsupported.
func (s *S3) GetRange(ctx context.Context, key string, offset, length int64, etag string) (io.ReadCloser, Info, error) {
	fail := func(err error) (io.ReadCloser, Info, error) {
		return nil, Info{}, fmt.Errorf("getting %s of %s from %s: %w", rangeText(offset, length), key, s, err)
	}
	if err := cmpErr(checkKey(key), checkRange(offset, length)); err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	// No checksums are asked for: a store that answers with that of the whole object would have the SDK refuse the part.
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{
		Bucket: &s.bucket, Key: s.name(key), Range: aws.String(rangeHeader(offset, length)), IfMatch: given(etag),
	})
	if err != nil {
		err = s3Error(ctx, err) // looks at the context, so before its end
		cancel(nil)
		return fail(err)
	}
	info := gotInfo(key, out)
	left, err := answered(out, offset, length, &info)
	if err == nil && etag != "" && info.ETag != etag {
		err = fmt.Errorf("%w: asked for state %s, got %s despite If-Match", ErrUnsupported, etag, info.ETag)
	}
	if err != nil {
		cancel(nil)
		out.Body.Close()
		return fail(err)
	}
	what := fmt.Sprintf("reading %s of %s from %s", rangeText(offset, length), key, s)
	return &rangeBody{ReadCloser: newBody(ctx, cancel, out.Body, what), left: left, what: what}, info, nil
}

// rangeHeader is RFC 9110's, section 14.1.2.
func rangeHeader(offset, length int64) string {
	if offset < 0 {
		return fmt.Sprintf("bytes=-%d", suffixLength(offset))
	}
	last := offset + (length - 1)
	if last < offset { // more than there are
		return fmt.Sprintf("bytes=%d-", offset)
	}
	return fmt.Sprintf("bytes=%d-%d", offset, last)
}

// answered checks that the answer is the range that was asked for, and returns how many bytes it has. It sets the size of the object.
func answered(out *s3.GetObjectOutput, offset, length int64, info *Info) (int64, error) {
	from, to := int64(0), info.Size
	if text := aws.ToString(out.ContentRange); text != "" {
		var ok bool
		if from, to, info.Size, ok = contentRange(text); !ok || out.ContentLength != nil && *out.ContentLength != to-from {
			return 0, fmt.Errorf("%w: asked for %s, got %q in %d bytes", ErrUnsupported, rangeHeader(offset, length), text, aws.ToInt64(out.ContentLength))
		}
	} else if out.ContentLength == nil {
		return 0, fmt.Errorf("%w: an answer without Content-Range and Content-Length", ErrUnsupported)
	}
	// Without Content-Range it is the whole object, which is right if that was asked for.
	wantFrom, wantTo, err := resolveRange(offset, length, info.Size)
	if err != nil {
		return 0, err
	}
	if from != wantFrom || to != wantTo {
		return 0, fmt.Errorf("%w: asked for %s, got bytes %d to %d of %d", ErrUnsupported, rangeHeader(offset, length), from, to, info.Size)
	}
	return to - from, nil
}

// contentRange parses "bytes first-last/size", as [from, to).
func contentRange(s string) (from, to, size int64, ok bool) {
	span, all, ok1 := strings.Cut(strings.TrimPrefix(s, "bytes "), "/")
	first, last, ok2 := strings.Cut(span, "-")
	from, err1 := parseOffset(first)
	to, err2 := parseOffset(last)
	size, err3 := parseOffset(all)
	ok = ok1 && ok2 && err1 == nil && err2 == nil && err3 == nil && strings.HasPrefix(s, "bytes ") && from <= to && to < size
	return from, to + 1, size, ok
}

func parseOffset(s string) (int64, error) {
	u, err := strconv.ParseUint(s, 10, 62)
	return int64(u), err
}
