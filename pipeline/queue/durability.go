package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxVarz bounds what is read of a server's answer.
const maxVarz = 1 << 20

// Sync is when a server's JetStream writes to the disk what it has acknowledged.
type Sync struct {
	Server string `json:"server"` // its name
	// Always: before it acknowledges. Else within Interval after, so that a power cut loses what came in meanwhile.
	Always   bool          `json:"always"`
	Interval time.Duration `json:"interval"`
}

// ReadSync asks a server's monitoring port ("http://host:8222") for its sync interval. A client cannot ask for that: neither
// the server's greeting nor the JetStream API has it, only the monitoring port and the system account. The client should
// have a timeout.
func ReadSync(ctx context.Context, client *http.Client, monitor string) (Sync, error) {
	u, err := url.Parse(monitor)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return Sync{}, errors.New("monitoring URL of a NATS server: want http://HOST:8222")
	}
	u.Path = strings.TrimRight(u.Path, "/") + "/varz"
	s, err := readSync(ctx, client, u.String())
	if err != nil {
		return Sync{}, fmt.Errorf("asking %s for its sync interval: %w", u.Redacted(), err)
	}
	return s, nil
}

func readSync(ctx context.Context, client *http.Client, u string) (Sync, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return Sync{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return Sync{}, errors.Unwrap(err) // it is a *url.Error, with the URL in it
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Sync{}, fmt.Errorf("it answers %s", resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxVarz))
	if err != nil {
		return Sync{}, err
	}
	return parseVarz(data)
}

// parseVarz reads what a server says of itself.
func parseVarz(data []byte) (Sync, error) {
	var v struct {
		Name      string `json:"server_name"`
		JetStream struct {
			Config *struct {
				Interval time.Duration `json:"sync_interval"`
				Always   bool          `json:"sync_always"`
			} `json:"config"`
		} `json:"jetstream"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return Sync{}, fmt.Errorf("the answer cannot be read: %w", err)
	}
	if v.JetStream.Config == nil {
		return Sync{}, errors.New("the server has no JetStream")
	}
	return Sync{Server: oneLine(v.Name), Always: v.JetStream.Config.Always, Interval: max(v.JetStream.Config.Interval, 0)}, nil
}
