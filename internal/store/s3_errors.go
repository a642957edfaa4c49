package store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/hallmark-attest/hallmark/internal/remote"
)

// meanings are the codes of S3 and of compatible stores that say more than the HTTP status, or something else.
var meanings = map[string]error{
	"NoSuchKey":                   ErrNotFound,
	"NotFound":                    ErrNotFound,
	"PreconditionFailed":          ErrPrecondition,
	"ConditionalRequestConflict":  ErrPrecondition,
	"OperationAborted":            ErrPrecondition,
	"BadDigest":                   ErrDigest,
	"InvalidDigest":               ErrDigest,
	"XAmzContentSHA256Mismatch":   ErrDigest,
	"XAmzContentChecksumMismatch": ErrDigest,
	"AccessDenied":                ErrAuth,
	"InvalidAccessKeyId":          ErrAuth,
	"SignatureDoesNotMatch":       ErrAuth,
	"ExpiredToken":                ErrAuth,
	"InvalidToken":                ErrAuth,
	"XAdminUserNotFound":          ErrAuth, // versitygw, with status 404
	"InvalidRange":                ErrRange,
	"NotImplemented":              ErrUnsupported,
	"KeyTooLongError":             ErrKey,
	// A store on a file system has a file where the key needs a folder, or the other way round.
	"ObjectParentIsFile":        ErrKey,
	"ExistingObjectIsDirectory": ErrKey,
	// The store's trouble or its operator's, not the object's: trying again may help.
	"NoSuchBucket":         errOutage,
	"SlowDown":             errOutage,
	"InternalError":        errOutage,
	"ServiceUnavailable":   errOutage,
	"RequestTimeout":       errOutage,
	"Throttling":           errOutage,
	"RequestLimitExceeded": errOutage,
	"QuotaExceeded":        errOutage,
	"XMinioStorageFull":    errOutage,
	"NoSpaceLeftOnDevice":  errOutage,
}

// statuses are what the HTTP status means where there is no code, or one that is not in meanings.
var statuses = map[int]error{
	http.StatusUnauthorized:                 ErrAuth,
	http.StatusForbidden:                    ErrAuth,
	http.StatusNotFound:                     ErrNotFound,
	http.StatusConflict:                     ErrPrecondition,
	http.StatusPreconditionFailed:           ErrPrecondition,
	http.StatusRequestedRangeNotSatisfiable: ErrRange,
	http.StatusNotImplemented:               ErrUnsupported,
	http.StatusRequestTimeout:               errOutage,
	http.StatusTooManyRequests:              errOutage,
	http.StatusInsufficientStorage:          errOutage,
}

var (
	// errOutage marks what Transient calls transient.
	errOutage = errors.New("store in trouble")
	// errStalled is the cause of a context that we, not the caller, have cancelled.
	errStalled = errors.New("no answer in time")
	// errCorrupt is a checksum that does not fit what was read.
	errCorrupt = errors.New("bytes were damaged on the way")
)

// outage is errOutage with what the store said, and how long it asked to be left alone.
type outage struct {
	err   error
	after time.Duration
}

func (o *outage) Error() string   { return o.err.Error() }
func (o *outage) Unwrap() []error { return []error{errOutage, o.err} }

// s3Error says what an error of the SDK means: it adds the error of this package, or marks it as an outage.
func s3Error(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	// The caller's own context, in his words: the SDK's are many.
	if ended := ctx.Err(); ended != nil && context.Cause(ctx) != errStalled {
		return fmt.Errorf("%w (%v)", ended, err)
	}
	if mine, ok := errors.AsType[*bodyError](err); ok {
		return mine
	}
	if errors.Is(err, ErrPrecondition) {
		return err // checkAgain's
	}
	var meaning error
	status := 0
	var after time.Duration
	if r, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		status = r.HTTPStatusCode()
		meaning = statuses[status]
		if meaning == nil && status >= 500 {
			meaning = errOutage
		}
		after, _ = remote.RetryAfter(r.Response.Header, time.Now())
	}
	if a, ok := errors.AsType[smithy.APIError](err); ok {
		if m := meanings[a.ErrorCode()]; m != nil {
			meaning = m
		}
	} else if status == 0 {
		// Nothing was answered, so nothing was sent or the connection failed.
		if _, signing := errors.AsType[*v4.SigningError](err); signing || strings.Contains(err.Error(), "get identity") {
			meaning = ErrAuth
		} else if _, sending := errors.AsType[*smithyhttp.RequestSendError](err); sending || errors.Is(err, errStalled) {
			meaning = errOutage
		}
	}
	switch {
	case meaning == errOutage:
		return &outage{err: err, after: after}
	case meaning != nil:
		return fmt.Errorf("%w: %w", meaning, err)
	}
	return err
}

// readError says the same of a body that breaks off.
func readError(err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case strings.Contains(err.Error(), "checksum did not match"):
		return &outage{err: fmt.Errorf("%w: %w", errCorrupt, err)}
	}
	return &outage{err: err}
}
