package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-attest/hallmark/internal/prefix/prefixtest"
)

// TestServerWorkers: the list of stages is cut before upload, so that the worker that signs has no token to upload with, and
// the one that uploads no identity to sign with, and GitHub's token; events say where the attestations are.
func TestServerWorkers(t *testing.T) {
	t.Parallel()
	const n = 8
	h := newHosted(t)
	packages := samples(t, n, 68)
	url := "nats://" + freeAddress(t)
	hash := startWorker(t, stack.env, "--listen", strings.TrimPrefix(url, "nats://"), "--state", h.state, "--stages", "hash", "--upload-server", h.URL)
	waitForServer(t, url)
	g := newGitHub(t)
	submit := []string{"submit", "--json", "--nats", url, "--store-github-attestation", "--to", h.ChannelURL(), "--campaign", "rebuild",
		"--certificate-identity", stack.Identity, "--certificate-oidc-issuer", stack.Issuer, "--cut", "sign,upload"}
	run(t, programs.producer, append(submit, packages...)...).want(t, 0)
	run(t, programs.producer, append(append(submit, packages...), "--skip-existing")...).want(t, 2) // frozen
	watch := startWatch(t, url, n)
	var without []string
	for _, kv := range uploader("GITHUB_TOKEN="+githubToken, "HALLMARK_GITHUB_API="+g.URL) {
		if !strings.HasPrefix(kv, "ACTIONS_") {
			without = append(without, kv)
		}
	}
	// A worker's token goes to the servers that it was started for, and to no other.
	stranger := startWorker(t, without, "--nats", url, "--stages", "upload,publish", "--log-level", "INFO")
	sign := startWorker(t, stack.env, "--nats", url, "--stages", "sign")
	refused := func() bool {
		return strings.Contains(stranger.stderr(), "--upload-server") || strings.Contains(stranger.stderr(), "uploads to")
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; !refused() && i < 3000; i++ {
		<-tick.C
	}
	if !refused() || len(h.Requests(prefixtest.Upload))+len(h.Requests(prefixtest.Probe)) != 0 {
		t.Errorf("the stranger: %s", stranger.stderr())
	}
	upload := startWorker(t, without, "--nats", url, "--stages", "upload,publish", "--upload-server", h.URL)
	if st := waitForStatus(t, url, "rebuild", func(c campaign) bool { return c.Waiting == 0 }); st.Published != n || st.Failed != 0 {
		t.Errorf("%+v", st)
	}
	if got := len(g.Stored()); got != n {
		t.Errorf("GitHub has %d attestations", got)
	}
	if seen := watch(); len(seen) != n {
		t.Errorf("%d completed attestations seen by watch", len(seen))
	}
	h.holds(t, packages...)
	r := run(t, programs.producer, "watch", "--json", "--nats", url, "--campaign", "rebuild", "--events", "published", "--replay", "--count", "1").want(t, 0)
	var e struct {
		Data struct {
			CustomData struct {
				Package struct{ Filename, Subdir string }
				Channel struct {
					URL     string
					Visible bool
					Sidecar struct {
						URL, SHA256 string
						Bundles     int
					}
				}
				Attestation struct{ Bundle struct{ URL, SHA256 string } }
			}
		}
	}
	if err := json.Unmarshal([]byte(r.stdout), &e); err != nil {
		t.Fatal(err)
	}
	d := e.Data.CustomData
	_, sidecar := h.Served(d.Package.Subdir, d.Package.Filename)
	if !d.Channel.Visible || d.Channel.URL != h.ChannelURL() || d.Channel.Sidecar.SHA256 != sum(sidecar) || d.Channel.Sidecar.Bundles != 1 ||
		!strings.HasSuffix(d.Channel.Sidecar.URL, ".v0.sigs") || d.Attestation.Bundle.URL != d.Channel.Sidecar.URL ||
		d.Attestation.Bundle.SHA256 != sum(bundles(t, sidecar)[0]) {
		t.Errorf("%+v", d)
	}
	for _, w := range []*workerProcess{stranger, sign, upload, hash} {
		w.stop(t)
		silent(t, result{stderr: w.stderr()})
	}
}
