package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/internal/remote"
)

// HTTPConfig says what an HTTP store reads from. URL alone is required.
type HTTPConfig struct {
	// URL is what keys are below: http or https, without query and fragment. Credentials in it, as user and password or as
	// the path's /t/TOKEN, are sent to its own host only, and are in no message.
	URL string
	// Transport carries the requests. Default NewTransport's; that goes through the proxy that HTTPS_PROXY and HTTP_PROXY name.
	Transport http.RoundTripper
	// Attempts is how often a request is sent while the server is in trouble. Default 3.
	Attempts int
	// Answer is how long one attempt waits for the answer to begin. Default 30 s. A body that stands still for a minute fails, too.
	Answer time.Duration
}

// HTTP reads objects as any web server serves them. It writes nothing and lists nothing: those methods are ErrUnsupported.
//
// The bytes are asked for as they are, without a content coding, and one that comes nevertheless is refused. Info's Size is -1
// where the server does not say it, and ETag "" where it gives none; Get's bodies are checked against nothing but their
// announced length, so that whoever has a digest MUST check it. Redirects are followed five times, never away from https.
type HTTP struct {
	base     url.URL
	client   *http.Client
	attempts int
	answer   time.Duration
	name     string
}

var _ Store = (*HTTP)(nil)

const (
	maxRedirects = 5
	// mostPatience is the longest pause before a request is sent again. A server that wants a longer one is not asked again.
	mostPatience = 15 * time.Second
)

// NewHTTP prepares a client; it sends no request. Errors say what is wrong with the URL, and do not repeat it.
func NewHTTP(c HTTPConfig) (*HTTP, error) {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil:
		return nil, errors.New("it is not a URL") // err has it
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "":
		return nil, errors.New("want http://host/path or https://host/path")
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(c.URL, "#"):
		return nil, errors.New("it has a query or a fragment: want http://host/path or https://host/path")
	}
	raw := strings.TrimRight(u.EscapedPath(), "/")
	if u.Path, err = url.PathUnescape(raw); err != nil {
		return nil, errors.New("its path is not a URL's")
	}
	u.RawPath = raw
	if c.Transport == nil {
		c.Transport = NewTransport()
	}
	return &HTTP{
		base: *u, name: Redacted(u.String()), attempts: cmp.Or(max(c.Attempts, 0), 3), answer: cmp.Or(max(c.Answer, 0), answerTime),
		client: &http.Client{Transport: c.Transport, CheckRedirect: redirected},
	}, nil
}

var errRedirect = errors.New("redirect refused")

// redirected lets a channel's files be elsewhere. The Referer would tell that place the token in our path.
func redirected(req *http.Request, via []*http.Request) error {
	req.Header.Del("Referer")
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("%w: more than %d of them", errRedirect, maxRedirects)
	case via[0].URL.Scheme == "https" && req.URL.Scheme != "https":
		return fmt.Errorf("%w: it leads away from https", errRedirect)
	}
	return nil
}

// Redacted is a location without what may be a credential in it: user, password, the /t/TOKEN of conda's channel URLs, query
// and fragment. It is for messages.
func Redacted(location string) string {
	scheme, _, isURL := strings.Cut(location, "://")
	if !isURL {
		return location
	}
	u, err := url.Parse(location)
	if err != nil {
		return scheme + "://…"
	}
	parts := strings.Split(u.EscapedPath(), "/")
	for i, p := range parts[:len(parts)-1] {
		if (p == "t" || p == "T") && parts[i+1] != "" {
			parts[i+1] = "…"
		}
	}
	return u.Scheme + "://" + u.Host + strings.Join(parts, "/")
}

// url is an object's. S3 and others read a plus as a blank, so that nothing but letters, digits and -._~ stays as it is.
func (h *HTTP) url(key string) string {
	parts := strings.Split(key, "/")
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(url.QueryEscape(p), "+", "%20")
	}
	u := h.base
	u.RawPath = u.EscapedPath() + "/" + strings.Join(parts, "/")
	u.Path += "/" + key
	return u.String()
}

// Key resolves a reference that stands in an object, a URL or a path, to a key of this store. ok is false if it leads elsewhere.
// A folder's key has no slash at its end.
func (h *HTTP) Key(from, reference string) (key string, ok bool) {
	base, err := url.Parse(h.url(from))
	if err != nil {
		return "", false
	}
	r, err := base.Parse(reference)
	if err != nil || r.RawQuery != "" || r.Fragment != "" || r.Scheme != h.base.Scheme || r.Host != h.base.Host {
		return "", false
	}
	if key, ok = strings.CutPrefix(strings.TrimSuffix(r.Path, "/"), h.base.Path+"/"); !ok || checkKey(key) != nil {
		return "", false
	}
	return key, true
}

// String names the store: its URL without credentials.
func (h *HTTP) String() string { return h.name }

// Get implements Store, but for what the type says of Info.
func (h *HTTP) Get(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	resp, body, err := h.do(ctx, http.MethodGet, key, nil)
	if err != nil {
		return nil, Info{}, fmt.Errorf("getting %s from %s: %w", key, h, err)
	}
	return body, answeredInfo(key, resp, resp.ContentLength), nil
}

// Head implements Store, but for what the type says of Info.
func (h *HTTP) Head(ctx context.Context, key string) (Info, error) {
	resp, body, err := h.do(ctx, http.MethodHead, key, nil)
	if err != nil {
		return Info{}, fmt.Errorf("looking up %s in %s: %w", key, h, err)
	}
	body.Close()
	return answeredInfo(key, resp, resp.ContentLength), nil
}

func answeredInfo(key string, resp *http.Response, size int64) Info {
	i := Info{Key: key, Size: size, ETag: resp.Header.Get("ETag")}
	i.Modified, _ = http.ParseTime(resp.Header.Get("Last-Modified"))
	return i
}

// GetRange implements Store. Of a server without ranges the whole object is read up to the range.
func (h *HTTP) GetRange(ctx context.Context, key string, offset, length int64, etag string) (io.ReadCloser, Info, error) {
	body, info, err := h.getRange(ctx, key, offset, length, etag)
	if err != nil {
		return nil, Info{}, fmt.Errorf("getting %s of %s from %s: %w", rangeText(offset, length), key, h, err)
	}
	return body, info, nil
}

func (h *HTTP) getRange(ctx context.Context, key string, offset, length int64, etag string) (_ io.ReadCloser, info Info, err error) {
	if err := checkRange(offset, length); err != nil {
		return nil, Info{}, err
	}
	header := http.Header{"Range": {rangeHeader(offset, length)}}
	if etag != "" && !strings.HasPrefix(etag, "W/") { // a weak one never fits If-Match (RFC 9110, section 13.1.1)
		header.Set("If-Match", etag)
	}
	resp, body, err := h.do(ctx, http.MethodGet, key, header)
	if err != nil {
		return nil, Info{}, err
	}
	defer func() {
		if err != nil {
			body.Close()
		}
	}()
	if etag != "" && resp.Header.Get("ETag") != etag { // not every server looks at conditions
		return nil, Info{}, fmt.Errorf("%w: the object has changed", ErrPrecondition)
	}
	size, first, whole := resp.ContentLength, int64(0), resp.StatusCode != http.StatusPartialContent
	if !whole {
		text, ok := resp.Header.Get("Content-Range"), false
		switch first, _, size, ok = contentRange(text); {
		case !ok && strings.HasSuffix(text, "/0"): // Go's server says "bytes 0--1/0" of an empty object
			size, whole = 0, true
		case !ok:
			return nil, Info{}, fmt.Errorf("%w: the server gives the range %.80q", ErrUnsupported, text)
		}
	}
	if size < 0 {
		return nil, Info{}, fmt.Errorf("%w: the server does not say how long the object is", ErrUnsupported)
	}
	from, to, err := resolveRange(offset, length, size)
	if err != nil {
		return nil, Info{}, err
	}
	if !whole && first != from {
		return nil, Info{}, fmt.Errorf("%w: the server gives a range that begins at %d, not at %d", ErrUnsupported, first, from)
	}
	skip := int64(0)
	if whole {
		skip = from
	}
	if _, err := io.CopyN(io.Discard, body, skip); err != nil {
		if errors.Is(err, io.EOF) {
			err = &outage{err: fmt.Errorf("the answer ends too early: %w", io.ErrUnexpectedEOF)}
		}
		return nil, Info{}, err
	}
	return &rangeBody{ReadCloser: body, left: to - from, what: fmt.Sprintf("reading %s from %s", key, h)}, answeredInfo(key, resp, size), nil
}

// do sends a request until it is answered. The body is never nil, and MUST be closed.
func (h *HTTP) do(ctx context.Context, method, key string, header http.Header) (*http.Response, io.ReadCloser, error) {
	if err := checkKey(key); err != nil {
		return nil, nil, err
	}
	for n, delay := 1, 200*time.Millisecond; ; n, delay = n+1, 2*delay {
		resp, body, err := h.attempt(ctx, method, key, header)
		after, again := Transient(err)
		if !again || n == h.attempts || after > mostPatience || ctx.Err() != nil {
			return resp, body, err
		}
		if err := remote.Pause(ctx, max(after, delay/2+rand.N(delay/2))); err != nil {
			return nil, nil, err
		}
	}
}

func (h *HTTP) attempt(ctx context.Context, method, key string, header http.Header) (*http.Response, io.ReadCloser, error) {
	within, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(within, method, h.url(key), nil)
	if err != nil {
		cancel(nil)
		return nil, nil, errors.New("the URL cannot be asked for") // err has it
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "hallmark")
	timer := time.AfterFunc(h.answer, func() { cancel(errStalled) })
	resp, err := h.client.Do(req)
	if !timer.Stop() && err == nil && context.Cause(within) == errStalled {
		resp.Body.Close()
		err = errStalled
	}
	if err != nil {
		late := context.Cause(within) == errStalled
		cancel(nil)
		return nil, nil, unanswered(ctx, err, late)
	}
	body := newBody(within, cancel, resp.Body, fmt.Sprintf("reading %s from %s", key, h))
	if err := refusal(resp, header.Get("Range") != ""); err != nil {
		body.Close()
		return nil, nil, err
	}
	return resp, body, nil
}

// unanswered says why there is no answer. It shows no URL: that is as good as a credential.
func unanswered(ctx context.Context, err error, late bool) error {
	if ended := ctx.Err(); ended != nil {
		return ended
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	switch {
	case late:
		return &outage{err: errStalled}
	case errors.Is(err, errRedirect):
		return err
	case strings.Contains(err.Error(), "Location"):
		return fmt.Errorf("%w: it leads nowhere", errRedirect) // err has the place
	}
	return &outage{err: err}
}

// refusal says what an answer means that is not the object, or not as it is; nil for one that is.
func refusal(resp *http.Response, ranged bool) error {
	switch code := resp.StatusCode; {
	case code == http.StatusOK, code == http.StatusPartialContent && ranged:
		if c := resp.Header.Get("Content-Encoding"); c != "" && !strings.EqualFold(c, "identity") {
			return fmt.Errorf("%w: the server encodes the bytes (%.40q), and was asked for them as they are", ErrUnsupported, c)
		}
		return nil
	case code == http.StatusGone:
		return fmt.Errorf("%w: the server answered %d", ErrNotFound, code)
	default:
		err := fmt.Errorf("the server answered %d", code)
		meaning := statuses[code]
		if meaning == errOutage || meaning == nil && (code >= 500 || code == http.StatusTooEarly) {
			after, _ := remote.RetryAfter(resp.Header, time.Now())
			return &outage{err: err, after: after}
		}
		if meaning != nil {
			return fmt.Errorf("%w: %w", meaning, err)
		}
		return err
	}
}

func (h *HTTP) readOnly(doing, what string) error {
	return fmt.Errorf("%s %s in %s: %w: a web server is only read from", doing, what, h, ErrUnsupported)
}

// Put is ErrUnsupported.
func (h *HTTP) Put(_ context.Context, key string, _ io.ReaderAt, _ int64, _ PutOptions) (Info, error) {
	return Info{}, h.readOnly("writing", key)
}

// Delete is ErrUnsupported.
func (h *HTTP) Delete(context.Context, ...string) error { return h.readOnly("deleting", "objects") }

// List is ErrUnsupported.
func (h *HTTP) List(_ context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) { yield(Info{}, h.readOnly("listing", prefix)) }
}

// Folders is ErrUnsupported.
func (h *HTTP) Folders(context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) { yield("", h.readOnly("listing", "folders")) }
}
