package identity

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/hallmark-attest/hallmark/internal/remote"
)

// spiffeSocket is the variable that says where the workload API is (SPIFFE Workload Endpoint, section 4).
const spiffeSocket = "SPIFFE_ENDPOINT_SOCKET"

// SPIFFE asks a SPIFFE workload API (a SPIRE agent, usually) for JWT-SVIDs. The agent renews them half way.
//
// The API is one unary gRPC call, which is a POST over HTTP/2 without TLS: net/http makes it, so that no gRPC library is
// needed for it.
type SPIFFE struct {
	audience string

	client *http.Client
}

// NewSPIFFE gives JWT-SVIDs from the workload API at an endpoint of the form unix:///path or tcp://ip:port. The audience
// defaults to DefaultAudience.
func NewSPIFFE(endpoint, audience string) (*SPIFFE, error) {
	network, address, err := spiffeEndpoint(endpoint)
	if err != nil {
		return nil, fmt.Errorf("%s is not an endpoint: %w; it is unix:///path, or tcp://ip:port", spiffeSocket, err)
	}
	if audience == "" {
		audience = DefaultAudience
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &SPIFFE{audience: audience, client: remote.Unmoved(&http.Transport{
		Protocols:       protocols,
		IdleConnTimeout: time.Minute,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}, askTimeout)}, nil
}

// spiffeEndpoint reads an endpoint's URI (SPIFFE Workload Endpoint, section 4).
func spiffeEndpoint(endpoint string) (network, address string, err error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", "", errors.New("it is no URI")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", "", errors.New("it has a user, query or fragment")
	}
	switch {
	case u.Scheme == "unix" && u.Host == "" && u.Opaque == "" && strings.HasPrefix(u.Path, "/") && u.Path != "/":
		return "unix", u.Path, nil
	case u.Scheme == "tcp" && u.Path == "" && u.Opaque == "":
		if _, err := netip.ParseAddrPort(u.Host); err != nil {
			return "", "", errors.New("its host is not an IP address with a port")
		}
		return "tcp", u.Host, nil
	}
	return "", "", errors.New("it has neither an absolute path nor an address")
}

func (s *SPIFFE) String() string { return "SPIFFE workload API" }

// Token asks for a JWT-SVID, and takes the first, which is the default one. An API that is out of reach is asked up to
// four times; then the error matches ErrUnavailable. One that has no identity for this process, which is so for a while
// after a workload's start, is asked as often, and then the error matches ErrRefused.
func (s *SPIFFE) Token(ctx context.Context) (Token, error) {
	t, err := persist(ctx, s, s.audience, s.ask)
	if denied, ok := errors.AsType[*grpcError](err); ok && denied.code == grpcPermissionDenied && ctx.Err() == nil {
		return Token{}, fmt.Errorf("asking %s for an identity token (audience %s): %w: %s; register this workload with SPIFFE's control plane",
			s, s.audience, ErrRefused, denied.message)
	}
	return t, err
}

func (s *SPIFFE) ask(ctx context.Context) (string, wait, error) {
	message := protowire.AppendTag(nil, 1, protowire.BytesType) // JWTSVIDRequest.audience
	message = protowire.AppendString(message, s.audience)
	frame := append(make([]byte, 1, 5+len(message)), 0, 0, 0, 0) // not compressed
	binary.BigEndian.PutUint32(frame[1:], uint32(len(message)))
	frame = append(frame, message...)

	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/SpiffeWorkloadAPI/FetchJWTSVID", strings.NewReader(string(frame)))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	req.Header.Set("Workload.spiffe.io", "true") // the API's guard against requests that others trick a process into
	resp, err := s.client.Do(req)
	if err != nil {
		return "", 0, unavailable(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/grpc") {
		return "", 0, fmt.Errorf("%w: what answers there is not a workload API (status %d)", ErrRefused, resp.StatusCode)
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 4*maxToken+1))
	if err != nil {
		return "", 0, unavailable(ctx, err)
	}
	if len(answer) > 4*maxToken {
		return "", 0, fmt.Errorf("its answer has more than %d bytes: %w", 4*maxToken, ErrMalformed)
	}
	status := resp.Trailer // read with the body
	if status.Get("Grpc-Status") == "" {
		status = resp.Header // an answer that is all status
	}
	if err := grpcStatus(status); err != nil {
		return "", 0, err
	}
	raw, err := firstSVID(answer)
	return raw, 0, err
}

func unavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// gRPC's codes that say more than that it failed.
const (
	grpcInvalidArgument  = 3
	grpcPermissionDenied = 7
	grpcUnimplemented    = 12
	grpcUnauthenticated  = 16
)

// grpcError is an answer that is not OK.
type grpcError struct {
	code    int
	message string
	err     error
}

func (e *grpcError) Error() string {
	return fmt.Sprintf("%v: it answered with gRPC status %d (%s)", e.err, e.code, e.message)
}
func (e *grpcError) Unwrap() error { return e.err }

// grpcStatus reads the status that ends an answer.
func grpcStatus(h http.Header) error {
	code, err := strconv.Atoi(h.Get("Grpc-Status"))
	if err != nil {
		return fmt.Errorf("%w: its answer broke off", ErrUnavailable)
	}
	if code == 0 {
		return nil
	}
	message, err := url.PathUnescape(h.Get("Grpc-Message"))
	if err != nil {
		message = ""
	}
	if message = strings.TrimSpace(message); len(message) > maxReason {
		message = strings.ToValidUTF8(message[:maxReason], "") + "…"
	}
	e := &grpcError{code: code, message: strconv.Quote(message), err: ErrUnavailable}
	switch code {
	case grpcInvalidArgument, grpcUnimplemented, grpcUnauthenticated:
		e.err = ErrRefused
	}
	return e
}

// firstSVID reads the token out of a JWTSVIDResponse in its frame: field 1 of it is a JWTSVID, whose field 2 is the token.
func firstSVID(frame []byte) (string, error) {
	malformed := fmt.Errorf("its answer holds no JWT-SVID: %w", ErrMalformed)
	if len(frame) < 5 || frame[0] != 0 || uint64(binary.BigEndian.Uint32(frame[1:])) != uint64(len(frame)-5) {
		return "", malformed
	}
	svid, ok := field(frame[5:], 1)
	if !ok {
		return "", malformed
	}
	token, ok := field(svid, 2)
	if !ok || len(token) == 0 {
		return "", malformed
	}
	return string(token), nil
}

// field finds a message's first field with this number, of those that have a length.
func field(message []byte, number protowire.Number) ([]byte, bool) {
	for len(message) > 0 {
		num, typ, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, false
		}
		message = message[n:]
		if num == number && typ == protowire.BytesType {
			value, n := protowire.ConsumeBytes(message)
			return value, n >= 0
		}
		if n = protowire.ConsumeFieldValue(num, typ, message); n < 0 {
			return nil, false
		}
		message = message[n:]
	}
	return nil, false
}
