package store

import (
	"context"

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

// Failures are what Transient takes for a store's trouble.
var Failures = failures[:]
