package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// reported is the part of a report that the tests look at.
type reported struct {
	Schema   string
	Campaign struct{ Name, State, Identity string }
	Items    []struct {
		ID, Outcome, Filename, Subdir, SHA256, Cause, BundleSHA256 string
		Log                                                        []struct{ Index int64 }
	}
	Counts struct{ Enqueued, Published, Skipped, Quarantined, Aborted, Waiting int }
}

// adds fails unless the report has each item once and its sums are those of its items.
func (r reported) adds(t *testing.T) {
	t.Helper()
	ids, sums := map[string]bool{}, map[string]int{}
	for _, it := range r.Items {
		if ids[it.ID] {
			t.Errorf("item %s is reported twice", it.ID)
		}
		ids[it.ID] = true
		sums[it.Outcome]++
		if it.Outcome == "published" && (len(it.SHA256) != 64 || len(it.BundleSHA256) != 64 || it.Subdir == "" || len(it.Log) == 0) {
			t.Errorf("published, and not all is said: %+v", it)
		}
	}
	c := r.Counts
	if c.Enqueued != len(r.Items) || c.Published != sums["published"] || c.Skipped != sums["skipped"] || c.Quarantined != sums["quarantined"] ||
		c.Aborted != sums["aborted"] || c.Waiting != sums["waiting"] || c.Published+c.Skipped+c.Quarantined+c.Aborted+c.Waiting != c.Enqueued {
		t.Errorf("the report does not add up: %+v, and its items %v", c, sums)
	}
}

func readReport(t *testing.T, data []byte) reported {
	t.Helper()
	var r reported
	if err := json.Unmarshal(data, &r); err != nil || r.Schema != "hallmark.report/1" {
		t.Fatalf("not a report: %v\n%.2000s", err, data)
	}
	r.adds(t)
	return r
}

// TestControl: a campaign is paused in the middle; everything is killed and started again, and it is still paused; it is
// resumed, and aborted in the middle by a command that is interrupted itself. The report adds up and is signed. Then what was
// set aside is retried, and the campaign closed again.
func TestControl(t *testing.T) {
	t.Parallel()
	const n = 60
	packages := samples(t, n, 61)
	mended := packages[n-1]
	whole := read(t, mended)
	if err := os.Remove(mended); err != nil { // it will be missing
		t.Fatal(err)
	}
	p := newPlace(t)
	addr := freeAddress(t)
	url := "nats://" + addr
	start := func() *workerProcess {
		w := startWorker(t, stack.env, "--listen", addr, "--state", p.state, "--max-items", "4", "--log-level", "INFO")
		waitForServer(t, url)
		return w
	}
	producer := func(code int, args ...string) result {
		t.Helper()
		return run(t, programs.producer, append(args, "--nats", url)...).want(t, code)
	}
	worker := start()
	// The missing one comes first, so that it is set aside before the abort.
	submit := append([]string{"submit", "--to", p.channel, "--channel-url", channelURL, "--campaign", "c",
		"--certificate-identity", stack.Identity, "--certificate-oidc-issuer", stack.Issuer}, mended)
	producer(0, append(submit, packages[:n-2]...)...)
	waitForStatus(t, url, "c", func(c campaign) bool { return c.Published >= 3 && c.Failed == 1 })

	// Paused, what is in flight finishes; then nothing moves, whoever is killed.
	producer(0, "campaign", "pause", "c", "--reason", "lunch")
	idle := waitForWorkers(t, url, "c", 0)
	if idle.Published >= n-2 {
		t.Fatal("all was done before it could be paused")
	}
	_ = worker.cmd.Process.Signal(syscall.SIGKILL)
	_ = worker.cmd.Wait()
	worker = start()
	waitForLog(t, worker, "the campaign is not open")
	producer(0, append(submit, packages[n-2])...)
	if r := producer(0, "status", "c"); !strings.Contains(r.stdout, "paused since") || !strings.Contains(r.stdout, "lunch") {
		t.Errorf("status does not say that it is paused:\n%s", r.stdout)
	}
	if s := waitForStatus(t, url, "c", func(campaign) bool { return true }); s.Published != idle.Published || s.Enqueued != n || s.Waiting != n-1-s.Published {
		t.Errorf("paused with %+v, and after everything was killed %+v", idle, s)
	}
	r := readReport(t, []byte(producer(3, "report", "--json", "c").stdout))
	if r.Campaign.State != "paused" || r.Counts.Waiting != n-1-idle.Published {
		t.Errorf("%+v", r.Counts)
	}

	producer(0, "campaign", "resume", "c")
	waitForStatus(t, url, "c", func(c campaign) bool { return c.Published > idle.Published })

	// The command that aborts is interrupted as soon as it has begun; a worker completes it.
	abort := command(t.Context(), stack.env, programs.producer, "campaign", "abort", "c", "--reason", "wrong channel", "--nats", url)
	said, err := abort.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := abort.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = said.Read(make([]byte, 1))
	_ = abort.Process.Signal(os.Interrupt)
	_ = abort.Wait()
	s := waitForStatus(t, url, "c", func(c campaign) bool { return c.State == "closed" })
	if s.Waiting != 0 || s.Failed != 1 || s.Published <= idle.Published {
		t.Errorf("aborted: %+v", s)
	}
	if !strings.Contains(producer(0, "campaign", "abort", "c").stdout, "wrong channel") {
		t.Error("aborting what is aborted does not say so")
	}
	if r := run(t, programs.producer, append(submit, "--nats", url)...); r.code != 2 {
		t.Errorf("an aborted campaign takes packages, or another error came: %d\n%s", r.code, r.stderr)
	}
	check(t, p.channel, s.Published, subdirs(t, p.channel)...)

	// The report is signed, and other people's tools verify it.
	report := filepath.Join(t.TempDir(), "c.json")
	producer(3, "report", "c", "--sign", "--out", report)
	r = readReport(t, read(t, report))
	if r.Counts.Enqueued != n || r.Counts.Published != s.Published || r.Counts.Quarantined != 1 || r.Counts.Waiting != 0 || r.Campaign.State != "closed" {
		t.Errorf("%+v, and status says %+v", r.Counts, s)
	}
	verify := func(file string) result {
		return run(t, programs.cosign, "verify-blob-attestation", "--bundle", report+".sigstore.json", "--trusted-root", stack.TrustedRoot,
			"--type", "https://github.com/hallmark-attest/hallmark/attestations/report/v1",
			"--certificate-identity", stack.Identity, "--certificate-oidc-issuer", stack.Issuer, file)
	}
	verify(report).want(t, 0)
	if err := os.WriteFile(report, append(read(t, report), ' '), 0o644); err != nil {
		t.Fatal(err)
	}
	if verify(report).code == 0 {
		t.Error("cosign verifies a report that was changed")
	}

	// What was set aside is put right and retried, in the same campaign.
	type listed struct{ ID, Cause, Stage, Filename, Source string }
	l := decode[listed](t, producer(0, "quarantine", "list", "--json", "--cause", "source.*"))
	if l.Cause != "source.missing" || l.Stage != "hash" || l.Source != mended {
		t.Errorf("%+v", l)
	}
	if r := producer(0, "quarantine", "show", l.ID[:8]); !strings.Contains(r.stdout, mended) || !strings.Contains(r.stdout, "source.missing") {
		t.Errorf("show says\n%s", r.stdout)
	}
	if err := os.WriteFile(mended, whole, 0o644); err != nil {
		t.Fatal(err)
	}
	producer(2, "quarantine", "retry", "c", "--cause", "source.*")
	producer(0, "quarantine", "retry", "c", "--cause", "source.*", "--dry-run", "--reopen")
	if got := decode[struct{ Items int }](t, producer(0, "quarantine", "retry", "c", "--cause", "source.*", "--reopen", "--json")); got.Items != 1 {
		t.Errorf("%+v", got)
	}
	last := waitForStatus(t, url, "c", func(c campaign) bool { return c.Published == s.Published+1 })
	if last.Enqueued != n || last.Failed != 0 || last.State != "open" {
		t.Errorf("after the retry: %+v", last)
	}
	waitForWorkers(t, url, "c", 0)
	producer(0, "campaign", "close", "c")
	r = readReport(t, []byte(producer(0, "report", "--json", "c").stdout))
	if r.Counts.Enqueued != n || r.Counts.Published != s.Published+1 || r.Counts.Quarantined != 0 {
		t.Errorf("%+v", r.Counts)
	}
	check(t, p.channel, s.Published+1, subdirs(t, p.channel)...)
	worker.stop(t)
}

// TestPausedPublish: publish says that its campaign is paused, instead of waiting in a CI job for somebody; aborted, its
// packages are a new campaign's.
func TestPausedPublish(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	packages := samples(t, 3, 62)
	c := decode[campaign](t, run(t, programs.producer, append(p.publish(packages...), "--timeout", "1ms")...).want(t, 5))
	if c.Waiting == 0 {
		t.Fatalf("all was done within a millisecond: %+v", c)
	}
	control := func(code int, args ...string) result {
		t.Helper()
		return run(t, programs.producer, append(args, "--state", p.state)...).want(t, code)
	}
	control(0, "campaign", "pause", c.Campaign)
	if r := run(t, programs.producer, p.publish(packages...)...).want(t, 5); !strings.Contains(r.stderr, "paused") || !strings.Contains(r.stderr, "campaign resume "+c.Campaign) {
		t.Errorf("publish says\n%s", r.stderr)
	}
	control(0, "campaign", "resume", c.Campaign)
	control(0, "campaign", "abort", c.Campaign)
	again := decode[campaign](t, run(t, programs.producer, p.publish(packages...)...).want(t, 0))
	if again.Campaign == c.Campaign || again.Published+again.Skipped != 3 {
		t.Errorf("%+v", again)
	}
	check(t, p.channel, 3, subdirs(t, p.channel)...)
}

// TestPublishIsSteered: a publish that listens is paused, resumed and aborted by others while it runs.
func TestPublishIsSteered(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	addr := freeAddress(t)
	url := "nats://" + addr
	w := &workerProcess{cmd: command(t.Context(), stack.env, programs.producer, append(p.publish(samples(t, 50, 63)...), "--listen", addr, "--concurrency", "hash=1;sign=1;upload=1;publish=1")...)}
	w.cmd.Stderr = w
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForServer(t, url)
	var name string
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 600 {
		r := run(t, programs.producer, "status", "--json", "--nats", url)
		var s struct{ Campaigns []campaign }
		if json.Unmarshal([]byte(r.stdout), &s) == nil && len(s.Campaigns) > 0 {
			name = s.Campaigns[0].Campaign
			break
		}
		<-tick.C
	}
	waitForStatus(t, url, name, func(c campaign) bool { return c.Published > 0 })
	run(t, programs.producer, "campaign", "pause", name, "--nats", url).want(t, 0)
	waitForLog(t, w, "the campaign is paused")
	idle := waitForWorkers(t, url, name, 0)
	run(t, programs.producer, "campaign", "resume", name, "--nats", url).want(t, 0)
	waitForStatus(t, url, name, func(c campaign) bool { return c.Published > idle.Published })
	// The server ends with the publish; what the command that aborts makes of that is not the point.
	run(t, programs.producer, "campaign", "abort", name, "--nats", url)
	_ = w.cmd.Wait()
	if code := w.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(w.stderr(), "the campaign was aborted") {
		t.Errorf("exit %d, and it says\n%s", code, w.stderr())
	}
	r := readReport(t, []byte(run(t, programs.producer, "report", "--json", "--state", p.state, name).want(t, 0).stdout))
	if r.Campaign.State != "closed" || r.Counts.Aborted == 0 || r.Counts.Waiting != 0 || r.Counts.Enqueued != 50 {
		t.Errorf("%+v", r.Counts)
	}
	check(t, p.channel, r.Counts.Published, subdirs(t, p.channel)...)
}

// waitForWorkers waits until the campaign's workers hold so many items.
func waitForWorkers(t *testing.T, url, name string, held int) campaign {
	t.Helper()
	type withWorkers struct {
		campaign
		Segments []struct {
			Workers []struct{ InFlight int }
		}
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last withWorkers
	for range 600 {
		r := run(t, programs.producer, "status", "--json", "--nats", url, name).want(t, 0)
		last = decode[struct{ Campaigns []withWorkers }](t, r).Campaigns[0]
		sum, workers := 0, 0
		for _, s := range last.Segments {
			for _, w := range s.Workers {
				sum += w.InFlight
				workers++
			}
		}
		if workers > 0 && sum == held {
			return waitForStatus(t, url, name, func(campaign) bool { return true })
		}
		<-tick.C
	}
	t.Fatalf("the workers hold others than %d: %+v", held, last)
	return campaign{}
}

func waitForLog(t *testing.T, w *workerProcess, text string) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 1200 {
		if strings.Contains(w.stderr(), text) {
			return
		}
		<-tick.C
	}
	t.Fatalf("it does not say %q:\n%s", text, w.stderr())
}
