package identity

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

// bytesCodec hands a gRPC server messages as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string                  { return "proto" }
func (bytesCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// agent is a workload API on a real gRPC server.
type agent struct {
	answer func(call int) ([]byte, error)
	calls  atomic.Int64
}

func (a *agent) fetch(ctx context.Context, request []byte) ([]byte, error) {
	call := int(a.calls.Add(1))
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("workload.spiffe.io")) != 1 || md.Get("workload.spiffe.io")[0] != "true" {
		return nil, status.Error(codes.InvalidArgument, "security header missing from request")
	}
	want := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "sigstore")
	if string(request) != string(want) {
		return nil, status.Error(codes.InvalidArgument, "audience must be specified")
	}
	return a.answer(call)
}

// svids is a JWTSVIDResponse.
func svids(tokens ...string) []byte {
	var all []byte
	for i, token := range tokens {
		svid := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), fmt.Sprint("spiffe://acme.example/", i))
		svid = protowire.AppendString(protowire.AppendTag(svid, 2, protowire.BytesType), token)
		svid = protowire.AppendString(protowire.AppendTag(svid, 3, protowire.BytesType), "hint")
		all = protowire.AppendBytes(protowire.AppendTag(all, 1, protowire.BytesType), svid)
	}
	return all
}

// serve listens on a socket in a folder, and returns the endpoint.
func (a *agent) serve(t *testing.T, network, address string) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.ForceServerCodec(bytesCodec{}))
	srv.RegisterService(&grpc.ServiceDesc{ServiceName: "SpiffeWorkloadAPI", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: "FetchJWTSVID",
		Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var request []byte
			if err := decode(&request); err != nil {
				return nil, err
			}
			answer, err := a.fetch(ctx, request)
			return &answer, err
		},
	}}}, a)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		<-served
	})
	return network + "://" + l.Addr().String()
}

func TestSPIFFE(t *testing.T) {
	t.Parallel()
	raw := jwt(t, map[string]any{"sub": "spiffe://acme.example/0"})
	a := &agent{answer: func(int) ([]byte, error) { return svids(raw, "another"), nil }}
	for _, endpoint := range []string{a.serve(t, "unix", filepath.Join(t.TempDir(), "s")), a.serve(t, "tcp", "127.0.0.1:0")} {
		s, err := Detect(Options{Getenv: func(n string) string { return map[string]string{spiffeSocket: endpoint}[n] }, mounted: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			tok, err := s.Token(t.Context())
			if err != nil || tok.Raw != raw || tok.Source != "SPIFFE workload API" {
				t.Errorf("Token = %v, %v", tok, err)
			}
		}
		other, err := NewSPIFFE(endpoint, "another audience")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Token(t.Context()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "audience must be specified") {
			t.Errorf("another audience: %v: this agent looks at nothing", err)
		}
	}
}

func TestSPIFFEFaults(t *testing.T) {
	t.Parallel()
	raw := validJWT(t)
	tests := []struct {
		name   string
		answer func(call int) ([]byte, error)
		want   error
		says   string
		calls  int64
	}{
		{name: "not registered yet", answer: func(call int) ([]byte, error) {
			if call == 1 {
				return nil, status.Error(codes.PermissionDenied, "no identity issued")
			}
			return svids(raw), nil
		}, calls: 2},
		{name: "not registered", answer: func(int) ([]byte, error) { return nil, status.Error(codes.PermissionDenied, "no identity issued") },
			want: ErrRefused, says: `"no identity issued"; register`, calls: askAttempts},
		{name: "starting", answer: func(call int) ([]byte, error) {
			if call == 1 {
				return nil, status.Error(codes.Unavailable, "é\n")
			}
			return svids(raw), nil
		}, calls: 2},
		{name: "no SVID", answer: func(int) ([]byte, error) { return nil, nil }, want: ErrMalformed, says: "no JWT-SVID", calls: 1},
		{name: "empty SVID", answer: func(int) ([]byte, error) { return svids(""), nil }, want: ErrMalformed, says: "no JWT-SVID", calls: 1},
		{name: "garbage", answer: func(int) ([]byte, error) { return []byte("\xff\xff\xff\xff\xff"), nil }, want: ErrMalformed, says: "no JWT-SVID", calls: 1},
		{name: "no JWT", answer: func(int) ([]byte, error) { return svids("x"), nil }, want: ErrMalformed, says: "three parts", calls: 1},
		{name: "huge", answer: func(int) ([]byte, error) { return svids(strings.Repeat("a", 5*maxToken)), nil }, want: ErrMalformed, says: "more than", calls: 1},
		{name: "unimplemented", answer: func(int) ([]byte, error) { return nil, status.Error(codes.Unimplemented, strings.Repeat("é", 4000)) },
			want: ErrRefused, says: "status 12", calls: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := &agent{answer: tt.answer}
			s, err := NewSPIFFE(a.serve(t, "tcp", "127.0.0.1:0"), "")
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Token(t.Context())
			if !errors.Is(err, tt.want) || err != nil && (!strings.Contains(err.Error(), tt.says) || len(err.Error()) > 1000) {
				t.Errorf("Token = %v, want %v with %q", err, tt.want, tt.says)
			}
			if got := a.calls.Load(); got != tt.calls {
				t.Errorf("%d calls, want %d", got, tt.calls)
			}
		})
	}
	t.Run("another server", func(t *testing.T) {
		t.Parallel()
		srv := httptest.NewUnstartedServer(http.NotFoundHandler())
		srv.Config.Protocols = new(http.Protocols)
		srv.Config.Protocols.SetUnencryptedHTTP2(true)
		srv.Start()
		defer srv.Close()
		s, err := NewSPIFFE("tcp://"+srv.Listener.Addr().String(), "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Token(t.Context()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "404") {
			t.Errorf("Token = %v, want ErrRefused", err)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		t.Parallel()
		s, err := NewSPIFFE("unix://"+filepath.Join(t.TempDir(), "s"), "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Token(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("Token = %v, want ErrUnavailable", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Token(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrRefused) {
			t.Errorf("Token = %v, want the context's error", err)
		}
	})
}

func TestSPIFFEEndpoint(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]string{
		"unix:///run/spire/agent.sock": "unix /run/spire/agent.sock", "unix:/run/agent.sock": "unix /run/agent.sock",
		"tcp://127.0.0.1:8081": "tcp 127.0.0.1:8081", "tcp://[::1]:8081": "tcp [::1]:8081",
		"": "", "/run/agent.sock": "", "unix:run/agent.sock": "", "unix://host/path": "", "unix:///": "", "unix:///a?b=c": "", "unix:///a#b": "",
		"tcp://localhost:1": "", "tcp://127.0.0.1": "", "tcp://127.0.0.1:1/x": "", "tcp://u@127.0.0.1:1": "", "http://127.0.0.1:1": "", "%": "",
	} {
		network, address, err := spiffeEndpoint(endpoint)
		if want == "" && err == nil || want != "" && (err != nil || network+" "+address != want) {
			t.Errorf("%q: %s %s, %v, want %q", endpoint, network, address, err, want)
		}
	}
}

func FuzzFirstSVID(f *testing.F) {
	frame := func(message []byte) []byte { return append([]byte{0, 0, 0, 0, byte(len(message))}, message...) }
	f.Add(frame(svids("a.b.c")))
	f.Add(frame(svids("a", "b")))
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, answer []byte) {
		raw, err := firstSVID(answer)
		if (err == nil) != (raw != "") || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%q, %v", raw, err)
		}
	})
}
