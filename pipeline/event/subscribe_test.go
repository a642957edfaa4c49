package event

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// startServer runs a NATS server on loopback; port 0 is any free one.
func startServer(t *testing.T, dir string, port int) *server.Server {
	t.Helper()
	if port == 0 {
		port = server.RANDOM_PORT
	}
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server does not start")
	}
	return s
}

func connect(t *testing.T, s *server.Server) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func createStream(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: Stream, Subjects: []string{Prefix + ".>"},
		Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, MaxMsgsPerSubject: 1}); err != nil {
		t.Fatal(err)
	}
}

// publish stores the events of item i: signed and published.
func publish(t *testing.T, js jetstream.JetStream, campaign string, i int) {
	t.Helper()
	c, it := testCampaign(), testItem()
	c.Name, it.ID, it.Package.Name, it.Package.SHA256 = campaign, fmt.Sprintf("%032x", i), fmt.Sprintf("pkg.%d", i), fmt.Sprintf("%064x", i)
	ms, err := testEncoder().Encode(c, pipeline.Outcome{Delivery: pipeline.Delivery{Item: it, Attempt: 1}, Events: []string{Signed, Published}})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range ms {
		if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}, jetstream.WithMsgID(m.ID)); err != nil {
			t.Fatal(err)
		}
	}
}

func label(e *Event) string { return e.Tokens.Campaign + "/" + e.Tokens.Event + "/" + e.Tokens.Name }

func TestSubscribeFilters(t *testing.T) {
	t.Parallel()
	js := connect(t, startServer(t, t.TempDir(), 0))
	createStream(t, js)
	publish(t, js, "a", 1)
	publish(t, js, "b", 1) // the same fact, told by another campaign: an entry of its own
	publish(t, js, "a", 2)
	for name, tc := range map[string]struct {
		filter Filter
		want   []string
	}{
		"all":         {Filter{}, []string{"a/signed/pkg.1", "a/published/pkg.1", "b/signed/pkg.1", "b/published/pkg.1", "a/signed/pkg.2", "a/published/pkg.2"}},
		"campaign":    {Filter{Campaign: "b"}, []string{"b/signed/pkg.1", "b/published/pkg.1"}},
		"event":       {Filter{Events: []string{Published}}, []string{"a/published/pkg.1", "b/published/pkg.1", "a/published/pkg.2"}},
		"events":      {Filter{Campaign: "a", Events: []string{Published, Signed, Published}}, []string{"a/signed/pkg.1", "a/published/pkg.1", "a/signed/pkg.2", "a/published/pkg.2"}},
		"name":        {Filter{Name: "pkg.2", Subdir: "linux-64", Channel: "conda.example.org/forge"}, []string{"a/signed/pkg.2", "a/published/pkg.2"}},
		"another":     {Filter{Subdir: "noarch"}, nil},
		"wild card":   {Filter{Name: "*"}, nil},
		"from":        {Filter{FromSequence: 5}, []string{"a/signed/pkg.2", "a/published/pkg.2"}},
		"beyond":      {Filter{FromSequence: 7}, nil},
		"since never": {Filter{Since: time.Now().Add(time.Hour)}, nil},
		"new":         {Filter{New: true}, nil},
		"new, from":   {Filter{New: true, FromSequence: 6}, []string{"a/published/pkg.2"}},
		"since ever":  {Filter{Since: time.Now().Add(-time.Hour), Campaign: "b"}, []string{"b/signed/pkg.1", "b/published/pkg.1"}},
	} {
		tc.filter.ReplayOnly = true
		var got []string
		last := uint64(0)
		for ev, err := range Subscribe(t.Context(), js, tc.filter) {
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if ev.Sequence <= last || ev.Stored.IsZero() {
				t.Errorf("%s: sequence %d after %d, stored %v", name, ev.Sequence, last, ev.Stored)
			}
			last = ev.Sequence
			got = append(got, label(ev))
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	stream, err := js.Stream(t.Context(), Stream)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Consumers; n != 0 {
		t.Errorf("%d consumers were left behind", n)
	}
}

// TestSubscribeSurvivesARestart: replay, live, and no event missed or doubled over a server's death, by one iteration.
func TestSubscribeSurvivesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir, 0)
	u, err := url.Parse(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	_, p, err := net.SplitHostPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	js := connect(t, s)
	createStream(t, js)
	publish(t, js, "a", 0)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got, want []string
	for ev, err := range Subscribe(ctx, js, Filter{Events: []string{Published}}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, label(ev))
		want = append(want, fmt.Sprintf("a/published/pkg.%d", len(want)))
		switch n := len(got); n {
		case 6:
			cancel()
		case 2, 4: // the consumer, which is in memory, dies with the server
			s.Shutdown()
			s.WaitForShutdown()
			s = startServer(t, dir, port)
			fallthrough
		default:
			publish(t, connect(t, s), "a", n)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || len(got) != 6 {
		t.Errorf("%d events (-want +got):\n%s", len(got), diff)
	}
}

func TestSubscribeGoesOnAfterAMalformedMessage(t *testing.T) {
	t.Parallel()
	js := connect(t, startServer(t, t.TempDir(), 0))
	createStream(t, js)
	subject := Subject(Signed, "a", "", "", "", "x")
	if _, err := js.Publish(t.Context(), subject, []byte("{")); err != nil {
		t.Fatal(err)
	}
	publish(t, js, "a", 1)
	var got []string
	for ev, err := range Subscribe(t.Context(), js, Filter{ReplayOnly: true}) {
		if bad, ok := errors.AsType[*MalformedError](err); ok {
			got = append(got, fmt.Sprintf("malformed %d %s", bad.Sequence, bad.Subject))
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, label(ev))
	}
	if diff := cmp.Diff([]string{"malformed 1 " + subject, "a/signed/pkg.1", "a/published/pkg.1"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestSubscribeEnds(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), 0)
	js := connect(t, s)

	n := 0
	for ev, err := range Subscribe(t.Context(), js, Filter{}) {
		if n++; ev != nil || !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Errorf("without a stream: %v, %v", ev, err)
		}
	}
	if n != 1 {
		t.Errorf("without a stream: %d times", n)
	}

	createStream(t, js)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for ev, err := range Subscribe(ctx, js, Filter{}) {
		t.Errorf("after the context's end: %v, %v", ev, err)
	}

	publish(t, js, "a", 1)
	for _, err := range Subscribe(t.Context(), js, Filter{}) {
		if err != nil {
			t.Error(err)
		}
		break
	}

	publish(t, js, "a", 2)
	var last error
	for _, err := range Subscribe(t.Context(), js, Filter{}) {
		if last = err; err == nil {
			js.Conn().Close()
		}
	}
	if !errors.Is(last, nats.ErrConnectionClosed) {
		t.Errorf("after the connection was closed: %v", last)
	}
}

// TestSubscribeNew: what was there before does not come, also not after the consumer has to be made anew; what is stored
// meanwhile does.
func TestSubscribeNew(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), 0)
	js := connect(t, s)
	createStream(t, js)
	publish(t, js, "a", 1)
	var got []string
	sub := subscription{js: js, filter: Filter{New: true, ReplayOnly: true}, yield: func(e *Event, err error) bool {
		if err != nil {
			t.Error(err)
			return false
		}
		got = append(got, label(e))
		return true
	}}
	if _, err := sub.follow(t.Context()); err != nil || len(got) > 0 { // its consumer ends before anything has come
		t.Fatal(got, err)
	}
	publish(t, js, "a", 2)
	if _, err := sub.follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 || got[0] != "a/signed/pkg.2" {
		t.Errorf("after the outage: %v", got)
	}
}

// TestSubscribeNeedsOnly: the permissions that docs/events.md names are enough, and do hold a subscriber to its filter.
func TestSubscribeNeedsOnly(t *testing.T) {
	t.Parallel()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		Users: []*server.User{
			{Username: "admin", Password: "x"},
			{Username: "reader", Password: "x", Permissions: &server.Permissions{
				Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
				Publish: &server.SubjectPermission{Allow: []string{"$JS.API.CONSUMER.CREATE.EVENTS.*.attest.v1.published.>",
					"$JS.API.CONSUMER.MSG.NEXT.EVENTS.>", "$JS.API.CONSUMER.DELETE.EVENTS.>"}}}},
		}})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server does not start")
	}
	as := func(user string) jetstream.JetStream {
		nc, err := nats.Connect(s.ClientURL(), nats.UserInfo(user, "x"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return js
	}
	createStream(t, as("admin"))
	publish(t, as("admin"), "a", 1)
	for _, tc := range []struct {
		filter Filter
		want   int
	}{{Filter{Events: []string{Published}}, 1}, {Filter{}, 0}, {Filter{Events: []string{Signed}}, 0}} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if tc.want == 0 {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond) // a refusal has no answer
		}
		tc.filter.ReplayOnly = true
		n := 0
		for ev, err := range Subscribe(ctx, as("reader"), tc.filter) {
			if err == nil && ev.Tokens.Event == Published {
				n++
			}
			if err == nil && ev.Tokens.Event != Published {
				t.Errorf("the reader got %s", ev.Subject)
			}
		}
		cancel()
		if n != tc.want {
			t.Errorf("%+v: %d events, want %d", tc.filter, n, tc.want)
		}
	}
}
