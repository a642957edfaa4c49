package sign

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/digitorus/timestamp"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	sigstore "github.com/sigstore/sigstore-go/pkg/sign"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/identity"
)

const (
	// fulcioTimeout, tsaTimeout and rekorTimeout bound one attempt. A Rekor v2 log answers after its next checkpoint,
	// which takes up to 11 s when idle and more under load; its maintainers ask clients to allow for 20 s at least.
	fulcioTimeout = 30 * time.Second
	tsaTimeout    = 20 * time.Second
	rekorTimeout  = 60 * time.Second

	// signAttempts bounds how often one statement is signed anew.
	signAttempts = 3
	// clockPatience is the longest wait for a certificate to become valid by the timestamp authority's clock.
	clockPatience = 5 * time.Second
)

var (
	// ErrIdentityChanged says that the certificate authority certified another identity than before. A signer has one
	// identity for life; nothing is signed with the other one.
	ErrIdentityChanged = errors.New("the signing identity has changed")
	// ErrUntrusted says that the trust root does not know the certificate authority that the signing config names.
	ErrUntrusted = errors.New("the trusted root does not trust the signing config's certificate authority")
	// ErrOutsideValidity says that signatures kept falling outside their certificate's life: the clocks of the certificate
	// authority and of the timestamp authority disagree.
	ErrOutsideValidity = errors.New("the signature's time is outside the certificate's life")
)

// Config is what a KeylessSigner is made of. Trust, with a signing config, and Tokens are required.
type Config struct {
	// Trust names the services, by its signing config, and its root must know the certificate authority: a certificate
	// that it does not trust, even fetched anew, is refused before anything is signed and logged with it. When it changes,
	// the signer goes by the new one from the next signature on.
	Trust *attest.LiveTrust
	// Tokens gives an identity token for each certificate.
	Tokens identity.Source
	// PerPackage asks for a new key and certificate for every signature. By default, one serves for its life.
	PerPackage bool
	// RekorVersion is 1 or 2 to force a log's version; 0 leaves it to the signing config (the highest that it names).
	RekorVersion uint32
	// Log says what an operator may want to know before it becomes an error. Defaults to slog.Default().
	Log *slog.Logger
	// Transport carries all requests; each attempt has a span. Defaults to a clone of http.DefaultTransport that keeps
	// enough connections for hundreds of concurrent signatures.
	Transport http.RoundTripper
}

// Stats counts what a signer did.
type Stats struct {
	Certificates int64 // issued
	LogEntries   int64 // written
	Retries      int64 // requests repeated and statements signed anew
}

// KeylessSigner turns statements into bundles with the services of a Sigstore. It is safe for concurrent use, and meant to be used so: a Rekor v2 log takes
// seconds for an entry, however many there are.
type KeylessSigner struct {
	config      Config
	fulcio, tsa *upstream
	certs       *certificates
	spare       atomic.Pointer[certificate] // PerPackage: the one that Identity asked for, for the first signature
	first       atomic.Pointer[certificate] // its identity is the signer's
	endpoints   atomic.Pointer[endpoints]

	clock                   clock
	issued, logged, retried atomic.Int64
}

// endpoints are the services of the moment, with clients for the logs, which are shared by all signatures.
type endpoints struct {
	*services
	logs   []*sigstore.Rekor
	config *attest.SigningConfig // that they were chosen from
}

// NewSigner makes a signer. It makes no request. It fails if the signing config does not name what signing needs now.
func NewSigner(c Config) (*KeylessSigner, error) {
	if c.Trust == nil || c.Trust.Current().SigningConfig == nil || c.Tokens == nil {
		return nil, errors.New("a signer needs a signing config and a source of identity tokens")
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, Concurrency // the default, 2, would reconnect all the time
		c.Transport = t
	}
	s := &KeylessSigner{config: c, clock: clock{log: c.Log}}
	s.fulcio = s.upstream(serviceFulcio, fulcioTimeout, http.StatusOK)
	s.tsa = s.upstream(serviceTSA, tsaTimeout, http.StatusOK, http.StatusCreated)
	s.tsa.check = func(answer []byte) error {
		_, err := timestamp.ParseResponse(answer)
		return err
	}
	s.certs = &certificates{issue: s.issue, late: func(c *certificate, err error) {
		c.log(s.config.Log).Warn("the signing certificate cannot be renewed; the old one is used for as long as it is good", "error", err)
	}}
	if _, err := s.selected(time.Now()); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *KeylessSigner) upstream(service string, timeout time.Duration, expected ...int) *upstream {
	return &upstream{service: service, budget: budgetNames[service], timeout: timeout, expected: expected, retries: &s.retried,
		clock: &s.clock, since: time.Now(),
		base: otelhttp.NewTransport(s.config.Transport,
			otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return service + " " + r.Method }),
			// The services are third parties: our trace ids are nothing to them.
			otelhttp.WithPropagators(propagation.NewCompositeTextMapPropagator()))}
}

// selected gives the services to use now: the same until the validity of one of them ends or there is a new signing config.
func (s *KeylessSigner) selected(now time.Time) (*endpoints, error) {
	old, config := s.endpoints.Load(), s.config.Trust.Current().SigningConfig
	if old != nil && old.config == config && old.validAt(now) {
		return old, nil
	}
	chosen, err := selectServices(config, s.config.RekorVersion, now)
	if err != nil && old != nil && old.config != config && old.validAt(now) {
		// A new signing config that names nothing to sign with must not end what works.
		s.config.Log.Warn("the new signing config is not used", "error", err)
		kept := *old
		kept.config = config
		s.endpoints.CompareAndSwap(old, &kept)
		return &kept, nil
	}
	if err != nil {
		return nil, err
	}
	e := &endpoints{services: chosen, config: config}
	expected := []int{http.StatusCreated}
	if chosen.rekorVersion == 1 {
		expected = append(expected, http.StatusOK, http.StatusConflict) // an entry fetched; an entry that is there
	}
	for _, url := range chosen.rekors {
		client := &http.Client{Transport: s.upstream(serviceRekor, rekorTimeout, expected...)}
		e.logs = append(e.logs, newRekor(url, chosen.rekorVersion, client))
	}
	if !s.endpoints.CompareAndSwap(old, e) {
		return s.endpoints.Load(), nil
	}
	return e, nil
}

// RekorVersion is the major version of the logs that the signer writes to: 1 or 2.
func (s *KeylessSigner) RekorVersion() int { return int(s.endpoints.Load().rekorVersion) }

// Stats returns what the signer has done so far.
func (s *KeylessSigner) Stats() Stats {
	return Stats{Certificates: s.issued.Load(), LogEntries: s.logged.Load(), Retries: s.retried.Load()}
}

// Identity returns whom the certificate authority certifies the signer to be, asking it if it has not been asked yet. It
// is what a campaign calls first, so that a missing identity and an authority that is out of reach are known before
// anything else is done.
func (s *KeylessSigner) Identity(ctx context.Context) (identity, issuer string, err error) {
	c, err := s.certified(ctx)
	if err != nil {
		return "", "", err
	}
	return c.identity, c.issuer, nil
}

// Claims returns what else the first certificate says, by the names of attest.Result.Claims; like Identity, it asks for one
// if there is none yet. The map MUST NOT be changed.
func (s *KeylessSigner) Claims(ctx context.Context) (map[string]string, error) {
	c, err := s.certified(ctx)
	if err != nil {
		return nil, err
	}
	return c.claims, nil
}

// certified gives the first certificate.
func (s *KeylessSigner) certified(ctx context.Context) (c *certificate, err error) {
	if c = s.first.Load(); c != nil {
		return c, nil
	}
	if s.config.PerPackage {
		if c, err = s.issue(ctx); err == nil {
			s.spare.Store(c)
		}
		return c, err
	}
	return s.certs.get(ctx)
}

// Sign signs an in-toto statement, has the time witnessed and the signature logged, and returns the bundle: compact JSON
// (media type attest.BundleMediaType) that survives encoding/json unchanged. It verifies nothing.
//
// Errors are *UpstreamError, those of package identity, ErrIdentityChanged, ErrOutsideValidity, ctx's, or the budget's.
func (s *KeylessSigner) Sign(ctx context.Context, statement []byte) ([]byte, error) {
	var err error
	for attempt := range signAttempts {
		if attempt > 0 {
			s.retried.Add(1)
		}
		var turn context.Context
		if turn, err = s.turn(ctx, attempt > 0); err != nil {
			return nil, err
		}
		var c *certificate
		if c, err = s.certificate(turn); err != nil {
			return nil, err
		}
		var b *bundlepb.Bundle
		if b, err = s.bundle(turn, c, statement); err == nil {
			return encode(b)
		}
		if outside, ok := errors.AsType[*outsideValidity](err); ok {
			if outside.early == 0 {
				s.certs.discard(c)
			} else if err := pause(ctx, min(outside.early, clockPatience)); err != nil { // the authorities' clocks differ by a little
				return nil, err
			}
			continue
		}
		// A v2 log that has the entry gives no proof of it: another signature makes another entry. (A v1 log's 409 never
		// comes here; sigstore-go has fetched the entry.)
		if e, ok := errors.AsType[*UpstreamError](err); ok && e.Service == serviceRekor && e.Status == http.StatusConflict {
			continue
		}
		return nil, err
	}
	return nil, fmt.Errorf("signed %d times in vain: %w", signAttempts, err)
}

// certificate gives the certificate for one signature.
func (s *KeylessSigner) certificate(ctx context.Context) (*certificate, error) {
	if !s.config.PerPackage {
		c, err := s.certs.get(ctx)
		if err != nil {
			return nil, err
		}
		// It was trusted when it was issued. A root that has come since may have dropped its authority, and what is signed
		// with it would be in the log for nothing.
		if t := s.config.Trust.Current(); t.Root == c.trusted || trusts(t, c.leaf) == nil {
			return c, nil
		}
		s.certs.discard(c)
		return s.certs.get(ctx)
	}
	if c := s.spare.Swap(nil); c != nil && time.Now().Before(c.renewAt) {
		return c, nil
	}
	return s.issue(ctx)
}

// issue gets a certificate for a new key, with a new token: tokens live for minutes, and some may be used only once.
func (s *KeylessSigner) issue(ctx context.Context) (c *certificate, err error) {
	defer recovered(&err, "getting a certificate")
	e, err := s.selected(time.Now())
	if err != nil {
		return nil, err
	}
	// A wait must not age the token.
	if ctx, err = await(ctx, true, budgetNames[serviceFulcio]); err != nil {
		return nil, err
	}
	token, err := s.config.Tokens.Token(ctx)
	if err != nil {
		return nil, fmt.Errorf("getting an identity token: %w", err)
	}
	keypair, err := sigstore.NewEphemeralKeypair(nil) // ECDSA P-256
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	asked := time.Now()
	authority := sigstore.NewFulcio(&sigstore.FulcioOptions{
		BaseURL:   strings.TrimRight(e.fulcio, "/"),
		Timeout:   -1, // none: the upstream has its own
		Transport: carrier{ctx, s.fulcio},
	})
	der, err := authority.GetCertificate(ctx, keypair, &sigstore.CertificateProviderOptions{IDToken: token.Raw})
	if err == nil {
		c, err = newCertificate(keypair, der, asked)
	}
	if err != nil {
		err = unseen(err, token)
		if u, ok := errors.AsType[*UpstreamError](err); ok && !u.Temporary() && !token.Expiry.IsZero() && !time.Now().Before(token.Expiry) {
			// It was good when it was fetched; an authority that was slow to answer has outlived it.
			err = fmt.Errorf("%w: %w", errOutlived, err)
		}
		return nil, fmt.Errorf("getting a certificate: %w", err)
	}
	if err := s.trusted(ctx, c); err != nil {
		return nil, err
	}
	if !s.first.CompareAndSwap(nil, c) {
		if f := s.first.Load(); f.identity != c.identity || f.issuer != c.issuer {
			return nil, fmt.Errorf("%w: from %q (issuer %q) to %q (issuer %q)", ErrIdentityChanged, f.identity, f.issuer, c.identity, c.issuer)
		}
	}
	s.issued.Add(1)
	return c, nil
}

// errOutlived says that an identity token expired while the certificate authority was being asked: the next attempt has a
// new one.
var errOutlived = errors.New("the identity token expired meanwhile")

// unseen makes sure that an error which a token's recipient had a part in does not show the token, and that it says which
// service it is about.
func unseen(err error, token identity.Token) error {
	e, ok := errors.AsType[*UpstreamError](err)
	if ok {
		e.Message = token.Redact(e.Message)
	}
	if text := err.Error(); token.Redact(text) != text {
		return &UpstreamError{Service: serviceFulcio, Err: errors.New(token.Redact(text))}
	}
	if ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &UpstreamError{Service: serviceFulcio, Err: fmt.Errorf("its answer is unusable: %w", err)}
}

// bundle signs once.
func (s *KeylessSigner) bundle(ctx context.Context, c *certificate, statement []byte) (b *bundlepb.Bundle, err error) {
	defer recovered(&err, "making a bundle")
	e, err := s.selected(time.Now())
	if err != nil {
		return nil, err
	}
	options := sigstore.BundleOptions{Context: ctx, CertificateProvider: c}
	for _, url := range e.tsas {
		options.TimestampAuthorities = append(options.TimestampAuthorities, sigstore.NewTimestampAuthority(
			&sigstore.TimestampAuthorityOptions{URL: url, Timeout: -1, Transport: carrier{ctx, s.tsa}}))
	}
	for _, log := range e.logs {
		options.TransparencyLogs = append(options.TransparencyLogs, &logging{log: log, cert: c, count: &s.logged})
	}
	b, err = sigstore.Bundle(&sigstore.DSSEData{Data: statement, PayloadType: attest.PayloadType}, c.keypair, options)
	if err != nil {
		return nil, err
	}
	if len(e.tsas) == 0 { // the log's word is the only one on the time
		for _, entry := range b.GetVerificationMaterial().GetTlogEntries() {
			if err := c.check(time.Unix(entry.GetIntegratedTime(), 0)); err != nil {
				return nil, err
			}
		}
	}
	return b, nil
}

// logging writes to a log, unless the timestamp that the bundle has by now says that its certificate is over: signing with
// an expired certificate succeeds everywhere, and only verification fails, when the entry is in the log for good.
type logging struct {
	log   sigstore.Transparency
	cert  *certificate
	count *atomic.Int64
}

// GetTransparencyLogEntry implements sigstore-go's Transparency.
func (l *logging) GetTransparencyLogEntry(ctx context.Context, certPEM []byte, b *bundlepb.Bundle) error {
	for _, ts := range b.GetVerificationMaterial().GetTimestampVerificationData().GetRfc3161Timestamps() {
		parsed, err := timestamp.ParseResponse(ts.GetSignedTimestamp())
		if err != nil {
			return &UpstreamError{Service: serviceTSA, Err: fmt.Errorf("its answer is unusable: %w", err)}
		}
		if err := l.cert.check(parsed.Time); err != nil {
			return err
		}
	}
	if err := l.log.GetTransparencyLogEntry(ctx, certPEM, b); err != nil {
		return err
	}
	l.count.Add(1)
	return nil
}

// recovered turns a panic in a parser of a service's answer into an error: it must not end an item's way.
func recovered(err *error, doing string) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%s panicked: %v", doing, p)
	}
}
