package attest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// tufHost is a TUF repository whose keys and contents change while it is served.
type tufHost struct {
	*httptest.Server
	first []byte // its first root

	mu          sync.Mutex
	files       map[string][]byte
	key         ed25519.PrivateKey // of all roles
	rootVersion int64
}

func newTUFHost(t *testing.T) *tufHost {
	t.Helper()
	h := &tufHost{files: map[string][]byte{}}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		data, ok := h.files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data)
	}))
	t.Cleanup(h.Close)
	h.first = h.rotate(t)
	return h
}

// rotate gives every role a new key, by a new root. It is signed by the old key and the new one, unless the old one is lost.
func (h *tufHost) rotate(t *testing.T, lost ...bool) []byte {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	public, private, err := ed25519.GenerateKey(nil)
	need(t, err)
	key, err := metadata.KeyFromPublicKey(public)
	need(t, err)
	root := metadata.Root(time.Now().Add(time.Hour))
	h.rootVersion++
	root.Signed.Version = h.rootVersion
	for _, role := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		need(t, root.Signed.AddKey(key, role))
	}
	for _, k := range []ed25519.PrivateKey{h.key, private} {
		if k == nil || len(lost) > 0 && k.Equal(h.key) {
			continue
		}
		signer, err := signature.LoadED25519Signer(k)
		need(t, err)
		_, err = root.Sign(signer)
		need(t, err)
	}
	h.key = private
	data, err := root.ToBytes(false)
	need(t, err)
	h.files[fmt.Sprintf("/%d.root.json", h.rootVersion)] = data
	return data
}

// publish replaces the trusted root, in one state of the repository with the given version.
func (h *tufHost) publish(t *testing.T, version int64, trustedRoot string, expires time.Time) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	signer, err := signature.LoadED25519Signer(h.key)
	need(t, err)
	targets := metadata.Targets(expires)
	targets.Signed.Version = version
	for name, content := range map[string]string{TargetTrustedRoot: trustedRoot, TargetSigningConfig: signingRekor} {
		info, err := metadata.TargetFile().FromBytes(name, []byte(content), "sha256")
		need(t, err)
		targets.Signed.Targets[name] = info
		sum := sha256.Sum256([]byte(content))
		h.files["/targets/"+hex.EncodeToString(sum[:])+"."+name] = []byte(content)
	}
	_, err = targets.Sign(signer)
	need(t, err)
	h.files[fmt.Sprintf("/%d.targets.json", version)], err = targets.ToBytes(false)
	need(t, err)
	snapshot := metadata.Snapshot(expires)
	snapshot.Signed.Version = version
	snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(version)
	_, err = snapshot.Sign(signer)
	need(t, err)
	h.files[fmt.Sprintf("/%d.snapshot.json", version)], err = snapshot.ToBytes(false)
	need(t, err)
	timestamp := metadata.Timestamp(expires)
	timestamp.Signed.Version = version
	timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(version)
	_, err = timestamp.Sign(signer)
	need(t, err)
	h.files["/timestamp.json"], err = timestamp.ToBytes(false)
	need(t, err)
}

func need(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// numberedRoot is a trusted root that is told from others by its bytes alone.
func numberedRoot(n int) string { return emptyRoot + strings.Repeat("\n", n) }

// TestRepositoryRotation: keys and contents of the repository change between the fetches of one process, and between two
// processes that begin with the first root. What is older than what was seen, not signed by who may, or expired is refused,
// and the next good state is taken again.
func TestRepositoryRotation(t *testing.T) {
	t.Parallel()
	h := newTUFHost(t)
	soon := time.Now().Add(time.Hour)
	long := NewRepository(TUFOptions{RepositoryURL: h.URL, Root: h.first})
	fetch := func(r *Repository, want int) {
		t.Helper()
		tr, sc, err := r.Fetch(t.Context())
		if err != nil || tr.SHA256 != hexSHA256([]byte(numberedRoot(want))) || sc == nil {
			t.Fatalf("root %d: %+v, %v", want, tr, err)
		}
	}
	h.publish(t, 3, numberedRoot(1), soon)
	fetch(long, 1)
	fetch(long, 1) // the same again
	h.publish(t, 4, numberedRoot(2), soon)
	fetch(long, 2)

	oldKey := h.key
	// New keys for all roles; the old ones are good for nothing any more.
	h.rotate(t)
	if _, _, err := long.Fetch(t.Context()); err == nil {
		t.Error("metadata by the old keys was taken under the new root")
	}
	h.publish(t, 5, numberedRoot(3), soon)
	fetch(long, 3)
	fetch(NewRepository(TUFOptions{RepositoryURL: h.URL, Root: h.first}), 3)

	// An older state, well signed: a new process cannot know; this one does.
	h.publish(t, 4, numberedRoot(2), soon)
	if _, _, err := long.Fetch(t.Context()); !errors.Is(err, errRollback) {
		t.Errorf("an older state: %v", err)
	}
	fetch(NewRepository(TUFOptions{RepositoryURL: h.URL, Root: h.first}), 2)
	// Under yet another root it is how the repository recovers.
	h.rotate(t)
	h.publish(t, 1, numberedRoot(4), soon)
	fetch(long, 4)

	h.publish(t, 2, numberedRoot(5), time.Now().Add(-time.Minute))
	if _, _, err := long.Fetch(t.Context()); err == nil {
		t.Error("an expired state was taken")
	}
	h.publish(t, 3, "no trusted root", soon)
	_, _, err := long.Fetch(t.Context())
	wantCode(t, err, CodeTrustMalformed)
	h.publish(t, 4, numberedRoot(6), soon)
	fetch(long, 6)

	// A root that the last one's keys did not sign ends it for good: somebody else has the repository.
	h.rotate(t, true)
	h.publish(t, 5, numberedRoot(7), soon)
	if _, _, err := long.Fetch(t.Context()); err == nil {
		t.Error("a root of other keys was taken")
	}
	// Whoever has the first root's old keys and withholds the newer roots convinces a new process, and not this one.
	h.mu.Lock()
	for v := int64(2); v <= h.rootVersion; v++ {
		delete(h.files, fmt.Sprintf("/%d.root.json", v))
	}
	h.key = oldKey
	h.mu.Unlock()
	h.publish(t, 100, numberedRoot(8), soon)
	if _, _, err := long.Fetch(t.Context()); err == nil {
		t.Error("went back behind the newest root")
	}
	fetch(NewRepository(TUFOptions{RepositoryURL: h.URL, Root: h.first}), 8)
}
