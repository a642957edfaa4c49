package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 30 * time.Second // Rekor's own limit for publishing what it has taken
)

// options of a start. The directory remembers none of them.
type options struct {
	rekor               rekorVersion
	rekor1              string        // path of the program, for rekorV1; empty: look for it
	checkpointInterval  time.Duration // Rekor v2; at least 100ms
	batchMaxAge         time.Duration // Rekor v2
	certificateLifetime time.Duration // Fulcio
	portBase            int           // 0: free ports; only for a new directory
}

// stack is a running Sigstore.
type stack struct {
	home   home
	state  state
	rekor  rekorVersion
	bearer string

	failed chan error // a server ended by itself; room for one
	wg     sync.WaitGroup
	stops  []func(context.Context) error // in the order of starting
}

// start brings everything up and returns when it all answers. Only one stack may run per process, because the timestamp
// authority's settings are global. The caller MUST stop it.
func start(ctx context.Context, h home, o options) (_ *stack, err error) {
	if err := os.MkdirAll(string(h), 0o700); err != nil {
		return nil, fmt.Errorf("making the directory: %w", err)
	}
	lock, err := h.lock()
	if err != nil {
		return nil, err
	}
	s := &stack{home: h, rekor: o.rekor, failed: make(chan error, 1)}
	s.onStop(func(context.Context) error { return lock.Close() })
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if err := os.Remove(h.ready()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if s.state, err = h.open(o.portBase); err != nil {
		return nil, err
	}
	bearer, err := os.ReadFile(h.key(requestToken))
	if err != nil {
		return nil, fmt.Errorf("reading the request token: %w", err)
	}
	s.bearer = string(bearer)
	if err := s.startServers(ctx, o); err != nil {
		return nil, err
	}
	if err := writeSigningConfig(h, s.state, o.rekor); err != nil {
		return nil, fmt.Errorf("writing the signing configuration: %w", err)
	}
	if err := writeFile(h.env(), s.envFile(), 0o600); err != nil {
		return nil, fmt.Errorf("writing the environment: %w", err)
	}
	if err := writeFile(h.ready(), s.summary().json(), 0o644); err != nil {
		return nil, fmt.Errorf("saying that all is ready: %w", err)
	}
	s.onStop(func(context.Context) error { return os.Remove(h.ready()) })
	return s, nil
}

func (s *stack) startServers(ctx context.Context, o options) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p := s.state.Ports

	// Libraries that log through the standard loggers.
	own, err := s.logFile("sigstore")
	if err != nil {
		return err
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(own, nil)))
	klog.SetSlogLogger(slog.Default()) // tessera's

	oidc, err := newIssuer(s.home, s.state, s.bearer)
	if err != nil {
		return err
	}
	if err := s.serve("OIDC issuer", p.OIDC, oidc.handler()); err != nil {
		return err
	}

	// Its background work must outlive ctx, and end only after shutdown.
	logCtx, logEnd := context.WithCancel(context.WithoutCancel(ctx))
	ctlog, err := newCTLog(logCtx, s.home)
	if err != nil {
		logEnd()
		return err
	}
	s.onStop(func(ctx context.Context) error {
		defer logEnd()
		if err := ctlog.shutdown(ctx); err != nil {
			return fmt.Errorf("stopping the CT log: %w", err)
		}
		return nil
	})
	if err := s.serve("CT log", p.CTLog, ctlog.handler()); err != nil {
		return err
	}

	fulcioLog, err := s.logFile("fulcio")
	if err != nil {
		return err
	}
	fulcio, err := newFulcio(logCtx, s.home, s.state, o.certificateLifetime, fulcioLog)
	if err != nil {
		return err
	}
	if err := s.serve("Fulcio", p.Fulcio, fulcio); err != nil {
		return err
	}

	tsaLog, err := s.logFile("tsa")
	if err != nil {
		return err
	}
	tsa, err := newTSA(s.home, tsaLog)
	if err != nil {
		return err
	}
	if err := s.serve("timestamp authority", p.TSA, tsa); err != nil {
		return err
	}

	rekor, err := startRekor(s.home, s.state, o)
	if err != nil {
		return err
	}
	stopping := make(chan struct{})
	s.wg.Go(func() {
		select {
		case <-stopping:
		case <-rekor.done:
			s.fail(rekor.ended())
		}
	})
	s.onStop(func(ctx context.Context) error { close(stopping); return rekor.stop(ctx) })
	if o.rekor == rekorV2 {
		if err := s.serve("Rekor's tiles", p.RekorTiles, rekorTiles(s.home)); err != nil {
			return err
		}
	}

	alive := baseURL(p.Rekor) + "/healthz"
	if o.rekor == rekorV1 {
		alive = baseURL(p.Rekor1) + "/api/v1/log"
	}
	if err := await(ctx, alive, rekor); err != nil {
		return err
	}
	for _, url := range []string{
		baseURL(p.OIDC) + "/.well-known/openid-configuration",
		baseURL(p.CTLog) + ctlogPath + "/checkpoint",
		baseURL(p.Fulcio) + "/api/v2/trustBundle",
		baseURL(p.TSA) + tsaPath + "/certchain",
	} {
		if err := await(ctx, url, rekor); err != nil {
			return err
		}
	}
	return nil
}

// serve listens on the loopback port and answers with handler until the stack stops.
func (s *stack) serve(name string, port int, handler http.Handler) error {
	l, err := net.Listen("tcp4", loopback(port))
	if err != nil {
		return fmt.Errorf("starting the %s: %w", name, err)
	}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 5 * time.Minute, ErrorLog: log.Default()}
	s.wg.Go(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.fail(fmt.Errorf("the %s ended by itself: %w", name, err))
		}
	})
	s.onStop(func(ctx context.Context) error {
		if err := srv.Shutdown(ctx); err != nil {
			return fmt.Errorf("stopping the %s: %w", name, errors.Join(err, srv.Close()))
		}
		return nil
	})
	return nil
}

func (s *stack) fail(err error) {
	select {
	case s.failed <- err:
	default: // the first one says enough
	}
}

func (s *stack) onStop(f func(context.Context) error) { s.stops = append(s.stops, f) }

// stop ends everything, last started first, and waits for it. All errors are returned, joined.
func (s *stack) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	// The directory's lock, taken first, is given back last.
	var errs []error
	for i, f := range slices.Backward(s.stops) {
		if i == 0 {
			s.wg.Wait()
		}
		errs = append(errs, f(ctx))
	}
	s.stops = nil
	return errors.Join(errs...)
}

// logFile is DIR/logs/name.log, appended to. It has no Sync: the timestamp authority calls that after every request.
func (s *stack) logFile(name string) (io.Writer, error) {
	f, err := os.OpenFile(s.home.path("logs", name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening a log: %w", err)
	}
	s.onStop(func(context.Context) error { return f.Close() })
	return struct{ io.Writer }{f}, nil
}

// logger is what Fulcio and the timestamp authority log with.
func logger(w io.Writer) *zap.SugaredLogger {
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(cfg), zapcore.AddSync(w), zapcore.InfoLevel)).Sugar()
}

// environ is what a signer's environment needs, as NAME=value. It contains a secret.
func (s *stack) environ() []string {
	return []string{
		"HALLMARK_TRUSTED_ROOT=" + s.home.trustedRoot(),
		"HALLMARK_SIGNING_CONFIG=" + s.home.signingConfig(),
		// GitHub's has a query as well, and clients append "&audience=…" without looking.
		"ACTIONS_ID_TOKEN_REQUEST_URL=" + tokenURL(s.state) + "?api-version=2.0",
		"ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + s.bearer,
	}
}

func tokenURL(st state) string { return baseURL(st.Ports.OIDC) + "/token" }

func (s *stack) envFile() []byte {
	var b strings.Builder
	sum := s.summary()
	fmt.Fprintf(&b, "# A private Sigstore, for development only: . %s\n", s.home.env())
	fmt.Fprintf(&b, "# identity: %s\n# issuer:   %s\n", sum.Identity, sum.Issuer)
	for _, kv := range s.environ() {
		name, value, _ := strings.Cut(kv, "=")
		fmt.Fprintf(&b, "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
	return []byte(b.String())
}
