// Package prefix publishes to a channel of prefix.dev, or of a server that speaks as it does: a package's bytes and its
// verified bundle flow in, as one request; what the server serves of them afterwards flows out.
//
//	Package{Filename, Subdir, Size, SHA256, Body} + bundle ──Upload──▶ POST /api/v1/upload/CHANNEL
//	GET FILE ──Compare──▶ the same bytes, or *Conflict        GET FILE.v0.sigs ──Await──▶ sidecar with the bundle
//
// The server does its own index. What is served is never overwritten. That something was uploaded does not say that it is
// served: that is for Compare and Await to see. The wire format is that of rattler's upload to prefix.dev.
package prefix

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/remote"
)

// Where nothing else is said.
const (
	DefaultAttempts = 4
	DefaultBackoff  = 500 * time.Millisecond
	DefaultPatience = 2 * time.Minute
	DefaultTimeout  = 2 * time.Minute
)

const (
	slowest   = 64 << 10 // bytes per second of an upload or a download that is still waited for
	maxPause  = 15 * time.Second
	userAgent = "hallmark"
)

// Config says where to publish, and as whom.
type Config struct {
	// Server is the server's origin: https, or http on loopback; nothing after the host.
	Server *url.URL
	// Channel is the channel's name there: one component of a path (CEP 26).
	Channel string
	// Tokens gives what requests are authorised with. Without it, only what is public can be read.
	Tokens TokenSource
	// Transport carries the requests. Defaults to http.DefaultTransport.
	Transport http.RoundTripper
	// Attempts is how often Upload sends a package while the server fails in a way that may pass. Defaults to DefaultAttempts.
	Attempts int
	// Backoff is the first pause between two requests for the same thing; the next ones grow. Defaults to DefaultBackoff.
	Backoff time.Duration
	// Patience is how long, in pauses, to wait for what was uploaded to be served. Defaults to DefaultPatience.
	Patience time.Duration
	// Timeout bounds one request, beside the time that its bytes take at 64 KiB/s. Defaults to DefaultTimeout.
	Timeout time.Duration
}

// Client publishes to one channel. It is safe for concurrent use.
type Client struct {
	server   url.URL
	channel  string
	tokens   TokenSource
	sender   *http.Client
	reader   *http.Client
	attempts int
	backoff  time.Duration
	patience time.Duration
	timeout  time.Duration
	pause    func(context.Context, time.Duration) error
}

var channelName = regexp.MustCompile(`^[a-z0-9_][a-z0-9_.-]{0,127}$`) // CEP 26, "Channel base URLs"

// New makes a client. It makes no request.
func New(c Config) (*Client, error) {
	if err := checkServer(c.Server); err != nil {
		return nil, err
	}
	if !channelName.MatchString(c.Channel) {
		return nil, fmt.Errorf("the channel's name %.130q is not one component of a path as CEP 26 has it", c.Channel)
	}
	if c.Transport == nil {
		c.Transport = http.DefaultTransport
	}
	cl := &Client{
		server: url.URL{Scheme: c.Server.Scheme, Host: c.Server.Host}, channel: c.Channel, tokens: c.Tokens,
		sender:   remote.Unmoved(c.Transport, 0),
		attempts: cmp.Or(max(c.Attempts, 0), DefaultAttempts), backoff: cmp.Or(max(c.Backoff, 0), DefaultBackoff),
		patience: cmp.Or(max(c.Patience, 0), DefaultPatience), timeout: cmp.Or(max(c.Timeout, 0), DefaultTimeout), pause: remote.Pause,
	}
	cl.reader = &http.Client{Transport: c.Transport, CheckRedirect: cl.redirected}
	return cl, nil
}

// URL is the channel's public URL, as users write it and as targetChannel has it (CEP 27).
func (c *Client) URL() string { return c.server.String() + "/" + c.channel }

// ParseURL splits a channel's URL, https://host/name, into what Config takes. Its errors do not repeat the URL, which may
// have a token in it.
func ParseURL(channel string) (server *url.URL, name string, err error) {
	u, err := url.Parse(channel)
	if err != nil {
		return nil, "", errors.New("the channel's URL cannot be parsed: want https://host/name")
	}
	name = strings.TrimPrefix(u.Path, "/")
	if !channelName.MatchString(name) {
		return nil, "", errors.New("the channel's URL does not end in one channel's name: want https://host/name")
	}
	u.Path, u.RawPath = "", ""
	if err := checkServer(u); err != nil {
		return nil, "", err
	}
	return u, name, nil
}

func checkServer(u *url.URL) error {
	switch {
	case u == nil || u.Host == "" || u.Hostname() == "":
		return errors.New("the channel's server is missing: want https://host")
	case u.User != nil:
		return errors.New("the server's URL has credentials in it: give a token by file or environment")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery || u.Opaque != "" || (u.Path != "" && u.Path != "/"):
		return errors.New("the server's URL has something after its host: want https://host")
	case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("the server's URL has the scheme %.16q: a token is sent there, which takes https (http on loopback only)", u.Scheme)
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// redirected lets reads go where the server has the bytes, without the token.
func (c *Client) redirected(req *http.Request, via []*http.Request) error {
	if len(via) >= 5 {
		return errors.New("more than 5 redirects")
	}
	if c.server.Scheme == "https" && req.URL.Scheme != "https" {
		return errors.New("a redirect away from https")
	}
	if req.URL.Scheme != c.server.Scheme || req.URL.Host != c.server.Host {
		req.Header.Del("Authorization")
	}
	return nil
}

// served is the URL of a file of the channel. Versions have + and !, which some servers read as other characters.
func (c *Client) served(subdir, filename, suffix string) (string, error) {
	if err := conda.CheckSubdir(subdir); err != nil {
		return "", err
	}
	if _, err := conda.ParseFilename(filename); err != nil {
		return "", err
	}
	escaped := strings.NewReplacer("+", "%2B", "!", "%21").Replace(filename)
	return c.URL() + "/" + subdir + "/" + escaped + suffix, nil
}

// within bounds one request that carries size bytes.
func (c *Client) within(ctx context.Context, size int64) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.timeout+time.Duration(size/slowest)*time.Second)
}

// next is the pause before the next request, at least as long as the server asked for, and what the pause after it
// starts from.
func next(delay, after time.Duration) (now, then time.Duration) {
	return max(after, delay/2+rand.N(delay/2+1)), min(2*delay, maxPause)
}
