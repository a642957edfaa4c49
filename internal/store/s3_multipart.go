package store

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"golang.org/x/sync/errgroup"
)

// nvme is the polynomial of CRC-64/NVME, reflected: the one checksum that S3 computes of a whole object in parts and that is wider
// than 32 bits. SHA-256 it has in parts only as a hash of hashes.
const nvme = 0x9a6c9329ac4bc9b5

// upload is one object on its way in parts.
type upload struct {
	*S3
	key  string
	id   *string
	body io.ReaderAt
	size int64
	part int64 // bytes
	crc  bool  // the store knows CRC64NVME
}

// putParts sends the object in parts, each refused by the store if it is not what was hashed, and completes it only if the
// whole has the announced digest.
func (s *S3) putParts(ctx context.Context, key string, body io.ReaderAt, size int64, o PutOptions) (Info, error) {
	if err := s.holds(ctx, key, o); err != nil {
		return Info{}, err
	}
	u := &upload{S3: s, key: key, body: body, size: size, part: partSize(size, s.partSize)}
	if err := u.create(ctx, o); err != nil {
		return Info{}, putError(o, err)
	}
	info, err := u.send(ctx, o)
	if err != nil {
		// Also when the caller has given up. Should it fail, the bucket's lifecycle rule is what is left.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTime)
		defer cancel()
		s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &s.bucket, Key: s.name(key), UploadId: u.id})
		return Info{}, putError(o, err)
	}
	return info, nil
}

// holds looks at the condition before gigabytes are sent. The store decides at the end.
func (s *S3) holds(ctx context.Context, key string, o PutOptions) error {
	if !o.IfNoneMatch && o.IfMatch == "" {
		return nil
	}
	now, err := s.head(ctx, key)
	switch {
	case errors.Is(err, ErrNotFound) && o.IfNoneMatch:
		return nil
	case errors.Is(err, ErrNotFound):
		return fmt.Errorf("%w: the object is gone", ErrPrecondition)
	case err != nil:
		return err
	case o.IfNoneMatch:
		return fmt.Errorf("%w: the object exists", ErrPrecondition)
	case now.ETag != o.IfMatch:
		return fmt.Errorf("%w: the object has changed", ErrPrecondition)
	}
	return nil
}

// partSize is the configured size, or what makes 10,000 parts of the object.
func partSize(size, configured int64) int64 {
	return max(configured, (size+maxParts-1)/maxParts)
}

func (u *upload) create(ctx context.Context, o PutOptions) error {
	in := &s3.CreateMultipartUploadInput{
		Bucket: &u.bucket, Key: u.name(u.key),
		ContentType: given(o.ContentType), CacheControl: given(o.CacheControl),
		ChecksumAlgorithm: types.ChecksumAlgorithmCrc64nvme, ChecksumType: types.ChecksumTypeFullObject,
	}
	if o.SHA256 != "" {
		in.Metadata = map[string]string{shaMetadata: o.SHA256}
	}
	out, err := u.client.CreateMultipartUpload(ctx, in)
	u.crc = true
	if noChecksum(err) {
		// Compatible stores that do not know this checksum. The signed payload hashes remain.
		u.crc = false
		in.ChecksumAlgorithm, in.ChecksumType = "", ""
		out, err = u.client.CreateMultipartUpload(ctx, in)
	}
	if err != nil {
		return s3Error(ctx, err)
	}
	u.id = out.UploadId
	return nil
}

func noChecksum(err error) bool {
	a, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return false
	}
	switch a.ErrorCode() {
	case "NotImplemented", "InvalidRequest", "InvalidArgument":
		return true
	}
	return false
}

// send hashes one part after the other and sends them, a few at once, while the next are hashed. The second reading comes from the
// page cache. No part is held in memory, whatever the number of uploads.
func (u *upload) send(ctx context.Context, o PutOptions) (Info, error) {
	table := crc64.MakeTable(nvme)
	whole, wholeCRC := sha256.New(), crc64.New(table)
	parts := make([]types.CompletedPart, (u.size+u.part-1)/u.part)
	g, sending := errgroup.WithContext(ctx)
	g.SetLimit(partsAtOnce)
	var failed error
	for i := range parts {
		at := int64(i) * u.part
		size := min(u.part, u.size-at)
		sum, crc := sha256.New(), crc64.New(table)
		if failed = readBody(sending, u.body, at, size, sum, crc, whole, wholeCRC); failed != nil {
			break
		}
		g.Go(func() (err error) {
			parts[i], err = u.sendPart(sending, int32(i+1), at, size, sum.Sum(nil), crc64Text(crc.Sum64()))
			return err
		})
	}
	// The first failure of a part ends the hashing too; it is the one to report.
	if err := g.Wait(); err != nil {
		return Info{}, s3Error(ctx, err)
	}
	if failed != nil {
		return Info{}, failed
	}
	digest := hex.EncodeToString(whole.Sum(nil))
	if o.SHA256 != "" && digest != o.SHA256 {
		return Info{}, fmt.Errorf("%w: announced %s, sent %s", ErrDigest, o.SHA256, digest)
	}
	etag, err := u.complete(ctx, o, parts, crc64Text(wholeCRC.Sum64()))
	if err != nil {
		return Info{}, err
	}
	return Info{Key: u.key, Size: u.size, ETag: etag, SHA256: digest}, nil
}

func (u *upload) sendPart(ctx context.Context, number int32, at, size int64, sum []byte, crc *string) (types.CompletedPart, error) {
	in := &s3.UploadPartInput{
		Bucket: &u.bucket, Key: u.name(u.key), UploadId: u.id, PartNumber: &number,
		Body: sent(u.body, at, size), ContentLength: &size,
	}
	if u.crc {
		in.ChecksumCRC64NVME = crc
	}
	out, err := u.client.UploadPart(ctx, in, withPayloadHash(hex.EncodeToString(sum)))
	if err != nil {
		return types.CompletedPart{}, fmt.Errorf("sending part %d: %w", number, err)
	}
	return types.CompletedPart{ETag: out.ETag, PartNumber: &number, ChecksumCRC64NVME: in.ChecksumCRC64NVME}, nil
}

func (u *upload) complete(ctx context.Context, o PutOptions, parts []types.CompletedPart, crc *string) (string, error) {
	in := &s3.CompleteMultipartUploadInput{
		Bucket: &u.bucket, Key: u.name(u.key), UploadId: u.id,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
		IfMatch:         given(o.IfMatch), IfNoneMatch: ifNoneMatch(o),
	}
	if u.crc {
		in.ChecksumCRC64NVME, in.ChecksumType, in.MpuObjectSize = crc, types.ChecksumTypeFullObject, &u.size
	}
	out, err := u.client.CompleteMultipartUpload(ctx, in)
	if err == nil {
		return aws.ToString(out.ETag), nil
	}
	if a, ok := errors.AsType[smithy.APIError](err); ok && a.ErrorCode() == "NoSuchUpload" {
		return u.completed(ctx, o, err)
	}
	return "", s3Error(ctx, err)
}

// completed decides what it means that the upload is gone when it is to be completed: most likely that an answer was lost and
// the SDK asked again, so that the object is there. It may also have been aborted from outside.
func (u *upload) completed(ctx context.Context, o PutOptions, cause error) (string, error) {
	if o.IfNoneMatch || o.IfMatch != "" {
		return "", fmt.Errorf("%w: the upload is gone, perhaps because it was completed: %w", ErrPrecondition, cause)
	}
	now, err := u.head(ctx, u.key)
	if err == nil && o.SHA256 != "" && now.SHA256 == o.SHA256 && now.Size == u.size && time.Since(now.Modified) < time.Hour {
		return now.ETag, nil
	}
	return "", &outage{err: cause}
}

func crc64Text(crc uint64) *string {
	return aws.String(base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, crc)))
}
