package queue

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

func TestReadSync(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		always   bool
		interval time.Duration
		want     Sync
	}{
		"default": {false, 0, Sync{Server: "one", Interval: 2 * time.Minute}},
		"set":     {false, 7 * time.Second, Sync{Server: "one", Interval: 7 * time.Second}},
		"always":  {true, 0, Sync{Server: "one", Always: true, Interval: 2 * time.Minute}},
	} {
		s := serve(t, &server.Options{ServerName: "one", HTTPHost: "127.0.0.1", HTTPPort: -1, SyncAlways: test.always, SyncInterval: test.interval})
		got, err := ReadSync(t.Context(), http.DefaultClient, "http://"+s.MonitorAddr().String())
		if err != nil || got != test.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, test.want)
		}
	}
}

// serve starts a stock server with JetStream.
func serve(t *testing.T, o *server.Options) *server.Server {
	t.Helper()
	o.Host, o.Port, o.JetStream, o.StoreDir, o.NoSigs, o.NoLog = "127.0.0.1", server.RANDOM_PORT, true, t.TempDir(), true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server is not ready")
	}
	return s
}

func TestReadSyncRefuses(t *testing.T) {
	t.Parallel()
	answer := ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if answer == "" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		_, _ = w.Write([]byte(answer))
	}))
	defer s.Close()
	for url, want := range map[string]string{
		"nats://127.0.0.1:4222":       "monitoring URL",
		"127.0.0.1:8222":              "monitoring URL",
		"http://127.0.0.1:1":          "refused",
		"http://u:secret@127.0.0.1:1": "refused",
		s.URL:                         "403",
	} {
		_, err := ReadSync(t.Context(), http.DefaultClient, url)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", url, err)
		}
	}
	for a, want := range map[string]string{"{": "cannot be read", `{"server_name":"x","jetstream":{}}`: "no JetStream", strings.Repeat("x", maxVarz+9): "cannot be read"} {
		answer = a
		if _, err := ReadSync(t.Context(), http.DefaultClient, s.URL); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20s: %v", a, err)
		}
	}
}

func FuzzParseVarz(f *testing.F) {
	f.Add([]byte(`{"server_name":"n","jetstream":{"config":{"sync_interval":120000000000,"sync_always":true}}}`))
	f.Add([]byte(`{"jetstream":{"config":{"sync_interval":-1}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseVarz(data)
		if err == nil && (s.Interval < 0 || strings.ContainsAny(s.Server, "\n\x1b")) {
			t.Errorf("%q: %+v", data, s)
		}
	})
}
