package store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// Open opens the store at a location: "s3://bucket" or "s3://bucket/prefix" (a bucket, configured by the environment as S3Config
// says), "file:///path", or a path (a directory, made if it is missing). The transport carries the requests to S3; nil is
// NewTransport's. No request is sent: Probe tells whether the store works. Errors say what is wrong with the location.
func Open(ctx context.Context, location string, transport http.RoundTripper) (Store, error) {
	scheme, rest, isURL := strings.Cut(location, "://")
	if !isURL {
		switch {
		case location == "":
			return nil, errors.New("the store's location is empty: want s3://bucket/prefix or a directory")
		case strings.HasPrefix(location, "s3:"), strings.HasPrefix(location, "file:"):
			return nil, fmt.Errorf("store location %q: two slashes are missing after the colon", location)
		}
		return openDir(location)
	}
	switch strings.ToLower(scheme) {
	case "s3":
		bucket, prefix, _ := strings.Cut(rest, "/")
		if bucket == "" {
			return nil, fmt.Errorf("store location %q has no bucket: want s3://bucket/prefix", location)
		}
		if strings.Contains(bucket, "@") {
			return nil, errors.New("the store's location has credentials in it: set them in the environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
		}
		s, err := NewS3(ctx, S3Config{Bucket: bucket, Prefix: prefix, Transport: transport})
		if err != nil {
			return nil, err
		}
		return s, nil
	case "file":
		u, err := url.Parse(location)
		if err != nil {
			return nil, fmt.Errorf("store location %q: %w", location, err)
		}
		if u.Host != "" && u.Host != "localhost" || !strings.HasPrefix(u.Path, "/") {
			return nil, fmt.Errorf("store location %q names a host or a relative path: want file:///path", location)
		}
		if u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("store location %q: ? and # must be written as %%3F and %%23", location)
		}
		return openDir(u.Path)
	case "http", "https":
		return nil, fmt.Errorf("store location %q is a URL to read from: want where to write, s3://bucket/prefix or a directory", hideUser(location))
	}
	return nil, fmt.Errorf("store location %q: unknown scheme %q, want s3, file or a path", hideUser(location), scheme)
}

// hideUser takes credentials out of a URL before it is put in a message.
func hideUser(location string) string {
	if u, err := url.Parse(location); err == nil {
		return u.Redacted()
	}
	scheme, _, _ := strings.Cut(location, "://")
	return scheme + "://…"
}

func openDir(path string) (Store, error) {
	d, err := NewDir(path)
	if err != nil {
		return nil, err
	}
	return d, nil
}
