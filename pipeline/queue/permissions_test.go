package queue

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What docs/control.md says that the commands need.
var (
	needAll = []string{"$JS.API.STREAM.INFO.*", "$JS.API.DIRECT.GET.>", "$JS.API.STREAM.MSG.GET.KV_campaigns", "$JS.API.CONSUMER.CREATE.KV_campaigns.>",
		"$JS.API.CONSUMER.DELETE.KV_campaigns.>", "$JS.API.CONSUMER.INFO.JOBS.>"}
	needList   = append(consume("QUARANTINE"), "$JS.API.STREAM.MSG.GET.*")
	needReport = slices.Concat(needList, consume("EVENTS"), consume("JOBS"))
	needPause  = []string{"$KV.campaigns.>", "$JS.API.CONSUMER.NAMES.JOBS", "$JS.API.CONSUMER.PAUSE.JOBS.>"}
	needRetry  = append([]string{"job.>", "$JS.API.STREAM.MSG.DELETE.QUARANTINE"}, needList...)
	needDrop   = append([]string{"attest.v1.>", "$JS.API.STREAM.MSG.DELETE.JOBS"}, needRetry...)
	needClose  = slices.Concat(needPause, needList, []string{"$JS.API.STREAM.MSG.DELETE.QUARANTINE", "$JS.API.STREAM.PURGE.JOBS", "$JS.API.CONSUMER.DELETE.JOBS.>"})
	needAbort  = append([]string{"attest.v1.>", "$JS.API.CONSUMER.CREATE.JOBS.>", "$JS.API.CONSUMER.MSG.NEXT.JOBS.>", "$JS.ACK.JOBS.>"}, needClose...)
)

func consume(stream string) []string {
	return []string{"$JS.API.CONSUMER.CREATE." + stream + ".>", "$JS.API.CONSUMER.MSG.NEXT." + stream + ".>", "$JS.API.CONSUMER.DELETE." + stream + ".>"}
}

// TestPermissions: each command works for a user that may publish on what the documentation says, and nothing else.
func TestPermissions(t *testing.T) {
	t.Parallel()
	users := map[string][]string{"counts": {}, "list": needList, "report": needReport, "pause": needPause, "retry": needRetry, "drop": needDrop,
		"reopen": slices.Concat(needRetry, needClose), "close": needClose, "abort": needAbort}
	opts := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		Users: []*server.User{{Username: "admin", Password: "x"}}}
	for name, need := range users {
		opts.Users = append(opts.Users, &server.User{Username: name, Password: "x", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: slices.Concat(needAll, need)},
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
		}})
	}
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server does not start")
	}
	as := func(user string) *instance {
		nc, err := nats.Connect(s.ClientURL(), nats.UserInfo(user, "x"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			t.Errorf("%s: %v", user, err)
		}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		q, err := Open(t.Context(), nc, Options{Log: quiet, Timeout: 5 * time.Second})
		if err != nil {
			t.Fatal(user, err)
		}
		return &instance{Queue: q, nc: nc}
	}
	admin := as("admin")
	c := campaign("p")
	admin.create(t, c)
	admin.enqueue(t, c, items(10), EnqueueResult{Queued: 10})
	admin.finish(t, c, 6, all("failed"))
	for _, step := range []struct {
		user string
		do   func(context.Context, *instance) error
	}{
		{"counts", func(ctx context.Context, i *instance) error { _, err := i.Counts(ctx, c, oneSegment); return err }},
		{"counts", func(ctx context.Context, i *instance) error { _, err := i.Campaigns().List(ctx); return err }},
		{"list", func(ctx context.Context, i *instance) error {
			for _, err := range i.Quarantined(ctx, c.Name) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"pause", func(ctx context.Context, i *instance) error {
			_, err := i.Campaigns().Pause(ctx, c.Name, "")
			return err
		}},
		{"pause", func(ctx context.Context, i *instance) error { _, err := i.Campaigns().Resume(ctx, c.Name); return err }},
		{"retry", func(ctx context.Context, i *instance) error {
			_, err := i.Retry(ctx, c, "hash", some(i.Quarantined(ctx, c.Name), 2))
			return err
		}},
		{"drop", func(ctx context.Context, i *instance) error {
			_, err := i.Drop(ctx, c, "hash", encoder{}, some(i.Quarantined(ctx, c.Name), 2))
			return err
		}},
		{"report", func(ctx context.Context, i *instance) error {
			for _, err := range i.Standings(ctx, c, "hash") {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"abort", func(ctx context.Context, i *instance) error {
			_, err := i.Abort(ctx, c, oneSegment, encoder{})
			return err
		}},
		{"close", func(ctx context.Context, i *instance) error { return i.Campaigns().Close(ctx, c.Name) }},
		{"reopen", func(ctx context.Context, i *instance) error { _, err := i.Campaigns().Reopen(ctx, c.Name); return err }},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		if err := step.do(ctx, as(step.user)); err != nil {
			t.Errorf("%s: %v", step.user, err)
		}
		cancel()
	}
}

// TestQueuePermissions: check and migrate work for users that may publish on what docs/operating.md says, and nothing else.
func TestQueuePermissions(t *testing.T) {
	t.Parallel()
	look := []string{"$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.LIST.JOBS"}
	change := append([]string{"$JS.API.STREAM.UPDATE.*", "$JS.API.STREAM.CREATE.*", "$JS.API.INFO", "$JS.API.CONSUMER.INFO.JOBS.*", "$JS.API.CONSUMER.CREATE.JOBS.>"}, look...)
	opts := &server.Options{Users: []*server.User{{Username: "admin", Password: "x"}}}
	for name, allow := range map[string][]string{"look": look, "change": change} {
		opts.Users = append(opts.Users, &server.User{Username: name, Password: "x", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: allow}, Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}}}})
	}
	s := serve(t, opts)
	as := func(user string) *nats.Conn {
		nc, err := nats.Connect(s.ClientURL(), nats.UserInfo(user, "x"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			t.Errorf("%s: %v", user, err)
		}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	o := Options{Log: quiet, Timeout: 5 * time.Second}
	if r, err := Migrate(t.Context(), as("change"), o); err != nil || r.Findings() != 0 {
		t.Fatalf("creating all: %+v, %v", r, err)
	}
	admin := as("admin")
	q, err := Open(t.Context(), admin, o)
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{Queue: q, nc: admin}
	c := campaign("p")
	i.create(t, c)
	i.source(t, c, "hash", SourceOptions{AckWait: 3 * time.Second})
	i.update(t, StreamEvents, func(s *jetstream.StreamConfig) { s.Duplicates = time.Minute })
	if r, err := Check(t.Context(), as("look"), o); err != nil || r.Findings() != 2 {
		t.Errorf("looking: %+v, %v", r, err)
	}
	if r, err := Migrate(t.Context(), as("change"), o); err != nil || r.Findings() != 0 {
		t.Errorf("changing: %+v, %v", r, err)
	}
}
