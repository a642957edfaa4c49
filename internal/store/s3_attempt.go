package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// How long one attempt may take: a time for the answer, and one byte in so many nanoseconds for what is sent. The SDK sets no
// deadline at all; a connection that has gone dead without a word would hold its caller for ever.
const (
	answerTime   = 30 * time.Second
	completeTime = 5 * time.Minute // S3 puts large objects together before it answers
	slowest      = 1 << 20         // bytes per second
)

// stalled is the error of an attempt that ran into its deadline. The SDK tries again.
type stalled struct{ after time.Duration }

func (e *stalled) Error() string      { return fmt.Sprintf("%s: gave up after %s", errStalled, e.after) }
func (e *stalled) Unwrap() error      { return errStalled }
func (*stalled) RetryableError() bool { return true }

// limitAttempts adds the deadline inside the SDK's retry loop.
func limitAttempts(stack *middleware.Stack) error {
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("HallmarkAttempt", func(
		ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler,
	) (middleware.FinalizeOutput, middleware.Metadata, error) {
		limit := answerTime
		operation := middleware.GetOperationName(ctx)
		if operation == "CompleteMultipartUpload" {
			limit = completeTime
		}
		if r, ok := in.Request.(*smithyhttp.Request); ok && r.ContentLength > 0 {
			limit += time.Duration(r.ContentLength) * (time.Second / slowest)
		}
		attempt, cancel := context.WithCancelCause(ctx)
		timer := time.AfterFunc(limit, func() { cancel(errStalled) })
		out, metadata, err := next.HandleFinalize(attempt, in)
		timer.Stop()
		late := context.Cause(attempt) == errStalled && ctx.Err() == nil
		// The body of a Get is read under this context; Get's own, above it, is ended by closing the body.
		if err != nil || operation != "GetObject" {
			cancel(nil)
		}
		if err != nil && late {
			err = &stalled{limit}
		}
		return out, metadata, err
	}), "Retry", middleware.After)
}

// retryable decides what the SDK's own rules do not.
func retryable(err error) aws.Ternary {
	if _, ok := errors.AsType[*bodyError](err); ok {
		return aws.FalseTernary // the SDK takes it for a broken connection
	}
	if r, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		switch r.HTTPStatusCode() {
		case http.StatusTooManyRequests, http.StatusRequestTimeout:
			return aws.TrueTernary
		}
	}
	return aws.UnknownTernary
}

// withPayloadHash gives the SDK the hash of the payload, which it would otherwise read the body for (over HTTP) or leave out of the
// signature (over HTTPS). It must be a middleware: the SDK clears values that were set on the caller's context.
func withPayloadHash(sha256 string) func(*s3.Options) {
	return s3.WithAPIOptions(func(stack *middleware.Stack) error {
		return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("HallmarkPayloadHash", func(
			ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
		) (middleware.InitializeOutput, middleware.Metadata, error) {
			return next.HandleInitialize(v4.SetPayloadHash(ctx, sha256), in)
		}), middleware.Before)
	})
}

// bodyError is a failure of the caller's body, not of the store.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// sentBody is a stretch of the caller's body as the SDK sends it. It ends with an error, not with EOF, if the body is too short.
type sentBody struct {
	*io.SectionReader
	size int64
}

func sent(body io.ReaderAt, at, size int64) *sentBody {
	return &sentBody{SectionReader: io.NewSectionReader(body, at, size), size: size}
}

func (b *sentBody) Read(p []byte) (int, error) {
	n, err := b.SectionReader.Read(p)
	if err == nil {
		return n, nil
	}
	at, _ := b.Seek(0, io.SeekCurrent) // cannot fail
	if err == io.EOF && at >= b.size {
		return n, err
	}
	return n, &bodyError{shortBody(at, b.size, err)}
}

// WriteTo is hidden, so that all reading goes through Read.
func (b *sentBody) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{b})
}
