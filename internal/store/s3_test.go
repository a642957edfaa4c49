package store_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/store"
	"github.com/hallmark-attest/hallmark/internal/store/storetest"
)

// TestS3 runs the suite against a real server: once as everything is by default, so that each object is one request, and
// once with parts as small as S3 allows.
func TestS3(t *testing.T) {
	t.Parallel()
	server := storetest.StartS3(t)
	for name, above := range map[string]int64{"OneRequest": 0, "Parts": 5 << 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int64
			storetest.Run(t, func(t *testing.T) store.Store {
				c := server.Config(fmt.Sprintf("%s/%d", strings.ToLower(name), n.Add(1)))
				c.MultipartAbove, c.PartSize = above, 5<<20
				s, err := store.NewS3(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				return s
			})
		})
	}
}
