package store

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Uploads tells how many uploads in parts are open in the bucket.
func (s *S3) Uploads(ctx context.Context) (int, error) {
	out, err := s.client.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &s.bucket, Prefix: &s.prefix})
	if err != nil {
		return 0, err
	}
	return len(out.Uploads), nil
}

// Properties are what a browser would be told of an object.
func (s *S3) Properties(ctx context.Context, key string) (contentType, cacheControl string, err error) {
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: s.name(key)})
	if err != nil {
		return "", "", err
	}
	return aws.ToString(out.ContentType), aws.ToString(out.CacheControl), nil
}

// Failures are what Transient takes for a store's trouble.
var Failures = failures[:]
