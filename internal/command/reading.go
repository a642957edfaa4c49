package command

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/store"
)

// ReadChannel opens a channel to read from: a folder that is there, s3://bucket/prefix, or an http(s) URL, whose requests transport
// carries. Messages do not repeat credentials in a URL.
func ReadChannel(ctx context.Context, location string, transport http.RoundTripper) (*channel.Channel, error) {
	if scheme, _, ok := strings.Cut(location, "://"); ok && (scheme == "http" || scheme == "https") {
		s, err := store.NewHTTP(store.HTTPConfig{URL: location, Transport: transport})
		if err != nil {
			return nil, Usage("give the URL that users have in their configuration", fmt.Errorf("the channel's URL %s: %w", store.Redacted(location), err))
		}
		return channel.New(s, channel.Options{}), nil
	}
	if !strings.Contains(location, "://") {
		if st, err := os.Stat(location); err != nil || !st.IsDir() { // which opening it would make
			return nil, Usage("", fmt.Errorf("--channel: %s is not a folder", location))
		}
	}
	return OpenChannel(ctx, location, false)
}
