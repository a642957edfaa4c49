package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// ErrAway says that the server, or the stream's leader, does not answer: it may be back later.
var ErrAway = errors.New("no answer")

// ConnectOptions are how to connect to a NATS server. The zero value connects without authentication. A user and password
// or a token may be in the URL; they appear in no error and no log.
type ConnectOptions struct {
	// Name is what the server's operator sees: "hallmark worker". Default "hallmark".
	Name string
	// CredsFile is a .creds file (a user JWT and its seed).
	CredsFile string
	// NKeyFile is a file with an NKey seed.
	NKeyFile string
	// CAFile holds the certificates to verify the server with (PEM), instead of the system's.
	CAFile string
	// CertFile and KeyFile are the client's certificate and key (PEM); both or none.
	CertFile, KeyFile string
	// InboxPrefix replaces _INBOX where the server's permissions give every user an own one.
	InboxPrefix string
	// Timeout bounds the first connect. Default 10 s.
	Timeout time.Duration
	// Log hears of lost and regained connections and of what the server refuses. Default slog.Default().
	Log *slog.Logger
}

// common are the options that hold in process as well as over the network.
func (o ConnectOptions) common() []nats.Option {
	log := o.Log
	if log == nil {
		log = slog.Default()
	}
	opts := []nats.Option{
		nats.Name(cmp.Or(o.Name, "hallmark")),
		// A server that is away comes back: work waits for it, for as long as it takes.
		nats.MaxReconnects(-1),
		nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectJitter(500*time.Millisecond, 2*time.Second),
		nats.PingInterval(20 * time.Second),
		nats.MaxPingsOutstanding(2),
		// What the server denies is otherwise only a timeout on this side.
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if sub != nil {
				log.Warn("NATS reports an error", "error", err, "subject", sub.Subject)
				return
			}
			log.Warn("NATS reports an error", "error", err)
		}),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if err != nil && !nc.IsClosed() {
				log.Warn("lost the connection to NATS; trying to get it back", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("connected to NATS again", "server", hideUser(nc.ConnectedUrl()))
		}),
	}
	if o.InboxPrefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(o.InboxPrefix))
	}
	return opts
}

// Connect connects to the server or servers (comma-separated) at rawURL. It tries for at most the timeout, since a
// server may be starting, but gives up at once where trying again cannot help (a refused identity, a bad file). Once
// connected, the connection is kept up until it is closed. The caller MUST Close it.
func Connect(ctx context.Context, rawURL string, o ConnectOptions) (*nats.Conn, error) {
	opts := o.common()
	shown := hideUser(rawURL)
	for u := range strings.SplitSeq(rawURL, ",") {
		// The client's own parser puts the URL, and so a password, into its error.
		if _, err := url.Parse(strings.TrimSpace(u)); err != nil {
			return nil, errors.New("NATS URL cannot be parsed; want nats://host:port")
		}
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		return nil, errors.New("NATS client certificate and key: want both or none")
	}
	if o.CredsFile != "" {
		opts = append(opts, nats.UserCredentials(o.CredsFile))
	}
	if o.NKeyFile != "" {
		k, err := nats.NkeyOptionFromSeed(o.NKeyFile)
		if err != nil {
			return nil, fmt.Errorf("reading the NKey seed %s: %w", o.NKeyFile, err)
		}
		opts = append(opts, k)
	}
	if o.CAFile != "" {
		opts = append(opts, nats.RootCAs(o.CAFile))
	}
	if o.CertFile != "" {
		opts = append(opts, nats.ClientCert(o.CertFile, o.KeyFile))
	}
	timeout := cmp.Or(o.Timeout, 10*time.Second)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		nc, err := nats.Connect(rawURL, append(opts, nats.Timeout(min(timeout, 3*time.Second)))...)
		if err == nil {
			return nc, nil
		}
		if !mayPass(err) {
			return nil, fmt.Errorf("connecting to NATS at %s: %w", shown, err)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil, ctx.Err()
			}
			return nil, fmt.Errorf("connecting to NATS at %s: %w within %v: %w", shown, ErrAway, timeout, err)
		}
	}
}

// mayPass reports whether connecting can succeed a moment later.
func mayPass(err error) bool {
	if errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, io.EOF) {
		return true
	}
	e, ok := errors.AsType[net.Error](err)
	return ok && e != nil
}

// hideUser returns the URLs without user, password and token.
func hideUser(rawURL string) string {
	var out []string
	for s := range strings.SplitSeq(rawURL, ",") {
		s = strings.TrimSpace(s)
		scheme := ""
		if i := strings.Index(s, "://"); i >= 0 {
			scheme, s = s[:i+3], s[i+3:]
		}
		if i := strings.LastIndexByte(s, '@'); i >= 0 {
			s = s[i+1:]
		}
		out = append(out, scheme+s)
	}
	return strings.Join(out, ",")
}
