package queue

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// TestBudgetRights: what a server must allow, as docs/operating.md says: those who look need less than those who take.
func TestBudgetRights(t *testing.T) {
	t.Parallel()
	look := []string{"$JS.API.STREAM.INFO.>", "$JS.API.DIRECT.GET.KV_budgets.$KV.budgets.>"}
	user := func(name string, publish ...string) *server.User {
		return &server.User{Username: name, Password: name, Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: publish}, Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}}}}
	}
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		Users: []*server.User{{Username: "admin", Password: "admin"}, user("worker", append(look, "$KV.budgets.>")...), user("guest", look...)}})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not start")
	}
	as := func(name string) *Queue {
		nc, err := Connect(t.Context(), strings.Replace(s.ClientURL(), "://", "://"+name+":"+name+"@", 1), ConnectOptions{Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		q, err := Open(t.Context(), nc, Options{Log: quiet, Timeout: 2 * time.Second})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return q
	}
	admin, worker, guest := as("admin"), as("worker"), as("guest")
	if err := admin.SetRate(t.Context(), "c", "rekor", 600); err != nil {
		t.Fatal(err)
	}
	b := worker.Budgets("w")
	defer b.Close()
	if err := b.Campaign("c").Wait(t.Context(), "rekor"); err != nil {
		t.Error(err)
	}
	if s, err := guest.Rates(t.Context(), "c"); err != nil || len(s) != 1 || s[0].Granted == 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if err := guest.SetRate(t.Context(), "c", "rekor", 0); err == nil {
		t.Error("a guest takes the budget away")
	}
}
