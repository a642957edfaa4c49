package store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Credentials sign requests. They print as a placeholder, never as themselves.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string // "" for long-lived keys
}

// String and GoString keep the secret out of messages that print a configuration.
func (Credentials) String() string   { return "credentials" }
func (Credentials) GoString() string { return "store.Credentials{…}" }

// S3Config says which bucket, and how to reach it. What is left empty comes from where the AWS tools look: AWS_REGION,
// AWS_PROFILE, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, the shared configuration files, and for credentials the default chain
// (environment, files, single sign-on, web identity, container, instance).
type S3Config struct {
	Bucket string // required
	// Prefix is put, with a slash, before every key; "" for the whole bucket.
	Prefix string
	// Region that requests are signed for. With an Endpoint and no region anywhere it is us-east-1.
	Region string
	// Endpoint is the URL of a compatible store; "" for AWS.
	Endpoint string
	// PathStyle addresses the bucket in the path instead of the host name. It is implied by an endpoint, wherever that comes
	// from: compatible stores take it, and a bucket seldom has a host name there.
	PathStyle bool
	// Transport carries the requests, for tracing or tests; it should wrap NewTransport. nil: NewTransport's settings and AWS_CA_BUNDLE.
	Transport http.RoundTripper
	// Credentials are used instead of the default chain.
	Credentials *Credentials
	// MultipartAbove is the size in bytes above which an object is sent in parts. 0: 64 MiB.
	MultipartAbove int64
	// PartSize is the size in bytes of a part, at least 5 MiB. It is raised where an object would have more than 10,000. 0: 16 MiB.
	PartSize int64
}

const (
	defaultMultipartAbove = 64 << 20
	defaultPartSize       = 16 << 20
	minPartSize           = 5 << 20 // S3 refuses smaller ones, but for the last
	maxParts              = 10_000
	partsAtOnce           = 4
)

// How often and how long the client itself tries. The SDK's own setting, three attempts and a quota of retries for the
// whole client, gives up within an outage of seconds: with the quota, 64 uploads in parallel fail nearly all.
const (
	attempts   = 9
	maxBackoff = 5 * time.Second
)

// S3 is a store in a bucket of S3 or of a store that is compatible with it.
//
// Guaranteed, where the store does what S3 documents:
//   - Every upload carries the SHA-256 of its bytes as signed payload hash and as checksum (in parts: of each part, with a CRC-64/NVME
//     of the whole, and the SHA-256 of the whole is computed over what is sent before the upload is completed),
//     so that the store refuses bytes which were changed on the way. ErrDigest, nothing stored.
//   - Readers see whole objects; conditions hold among all writers anywhere.
//   - Get checks the bytes against the checksum that the store keeps, where it keeps one of the whole object.
//   - A request is tried up to 9 times, with a deadline for each, before an error comes back; Transient tells of what kind it is.
//
// Not guaranteed:
//   - Durability beyond what the store itself promises. AWS answers after the bytes are safe; a compatible store may answer
//     before they are on disk, and a power cut then loses them. Probe cannot see this.
//   - That a store which ignores If-None-Match or If-Match is noticed by Put. That is what Probe is for.
//   - That the parts of an upload whose process died are removed: set a lifecycle rule that aborts incomplete multipart uploads.
//
// Objects under keys that are no keys here (such as the empty "folders" of some consoles) are not listed. Reading what does not
// exist without the right to list the bucket is ErrAuth, not ErrNotFound, because that is how S3 answers.
// An S3 is safe for concurrent use.
type S3 struct {
	client         *s3.Client
	bucket, prefix string
	multipartAbove int64
	partSize       int64
	putRetryer     aws.Retryer
}

// NewTransport returns a transport for hundreds of requests at once to one host: 512 idle connections to a host instead of 10, so that
// none is closed between two requests of as many callers, HTTP/1.1 (all that S3 speaks), larger buffers, and the AWS SDK's timeouts for connecting.
func NewTransport() *http.Transport {
	return awshttp.NewBuildableClient().WithTransportOptions(tune).GetTransport()
}

func tune(t *http.Transport) {
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 1024, 512
	t.WriteBufferSize, t.ReadBufferSize = 64<<10, 64<<10
	t.ForceAttemptHTTP2 = false
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
}

// NewS3 prepares a client; it sends no request to the store. Errors say what is wrong with the configuration.
func NewS3(ctx context.Context, c S3Config) (*S3, error) {
	s := &S3{
		bucket:         c.Bucket,
		multipartAbove: c.MultipartAbove,
		partSize:       c.PartSize,
	}
	if err := s.configure(ctx, c); err != nil {
		return nil, fmt.Errorf("opening bucket %q as store: %w", c.Bucket, err)
	}
	return s, nil
}

func (s *S3) configure(ctx context.Context, c S3Config) error {
	if c.Bucket == "" || strings.ContainsAny(c.Bucket, "/\\ ?#@:") {
		return fmt.Errorf("%q is not the name of a bucket", c.Bucket)
	}
	if prefix := strings.TrimSuffix(c.Prefix, "/"); prefix != "" {
		if err := checkKey(prefix); err != nil {
			return fmt.Errorf("reading the prefix: %w", err)
		}
		s.prefix = prefix + "/"
	}
	if s.multipartAbove == 0 {
		s.multipartAbove = defaultMultipartAbove
	}
	if s.partSize == 0 {
		s.partSize = defaultPartSize
	}
	if s.partSize < minPartSize || s.multipartAbove < 0 {
		return fmt.Errorf("parts of %d bytes above %d: S3 takes parts of %d bytes and more", s.partSize, s.multipartAbove, minPartSize)
	}

	load := []func(*config.LoadOptions) error{config.WithRetryer(func() aws.Retryer { return retryer() })}
	if c.Region != "" {
		load = append(load, config.WithRegion(c.Region))
	}
	if k := c.Credentials; k != nil {
		load = append(load, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(k.AccessKeyID, k.SecretAccessKey, k.SessionToken)))
	}
	ac, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return fmt.Errorf("loading the AWS configuration: %w", err)
	}
	custom := false
	s.client = s3.NewFromConfig(ac, func(o *s3.Options) {
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(c.Endpoint)
		}
		custom = o.BaseEndpoint != nil // also when AWS_ENDPOINT_URL has set it
		o.UsePathStyle = c.PathStyle || custom
		if custom && o.Region == "" {
			o.Region = "us-east-1"
		}
		ac.Region = o.Region
		o.HTTPClient = httpClient(c.Transport, ac.HTTPClient)
		// Compatible stores differ in the checksums that newer SDKs add by themselves. We send our own.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.DisableLogOutputChecksumValidationSkipped = true
		o.APIOptions = append(o.APIOptions, limitAttempts)
	})
	if ac.Region == "" {
		return errors.New("no region is set: set AWS_REGION, or AWS_ENDPOINT_URL_S3 for a store that is not AWS")
	}
	// A conflict with another conditional write of the same key says nothing about its outcome yet: ask again.
	s.putRetryer = retry.AddWithErrorCodes(retryer(), "ConditionalRequestConflict")
	return nil
}

// httpClient carries requests over the given transport, or the SDK's own client with our settings.
func httpClient(transport http.RoundTripper, sdk aws.HTTPClient) aws.HTTPClient {
	if transport == nil {
		if b, ok := sdk.(*awshttp.BuildableClient); ok {
			return b.WithTransportOptions(tune)
		}
		transport = NewTransport()
	}
	return &http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		// Only these two keep method and body. A token must not follow to another host.
		if code := r.Response.StatusCode; code != http.StatusTemporaryRedirect && code != http.StatusPermanentRedirect || len(via) > 3 {
			return http.ErrUseLastResponse
		}
		if r.URL.Host != via[0].URL.Host {
			r.Header.Del("X-Amz-Security-Token")
		}
		return nil
	}}
}

func retryer() *retry.Standard {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = attempts
		o.MaxBackoff = maxBackoff
		o.RateLimiter = ratelimit.None
		o.Retryables = append([]retry.IsErrorRetryable{
			retry.IsErrorRetryableFunc(retryable),
		}, o.Retryables...)
	})
}

// String is "s3://bucket/prefix".
func (s *S3) String() string {
	return strings.TrimSuffix("s3://"+s.bucket+"/"+s.prefix, "/")
}

// name is the object's name in the bucket.
func (s *S3) name(key string) *string { return aws.String(s.prefix + key) }
