// Command rekor1 is Rekor v1 without a database: Rekor's own API over Trillian's own log server and sequencer, with Trillian's
// memory as storage, in one process.
//
// In: entries on Rekor's HTTP API, on loopback. Out: their log entries, with inclusion proof, checkpoint and SET.
//
// For development: the tree is gone when the process ends. What was logged stays verifiable with the signer's key, because a bundle holds its proofs.
// `sigstore up --rekor v1` starts it as a child; the process ends when its standard input does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/go-openapi/loads"
	"github.com/sigstore/rekor/pkg/api"
	"github.com/sigstore/rekor/pkg/generated/restapi"
	"github.com/sigstore/rekor/pkg/generated/restapi/operations"
	"github.com/sigstore/rekor/pkg/log"
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1" // an entry type is registered by being linked
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.2"
	"github.com/spf13/viper"
)

func main() {
	port := flag.Int("port", 0, "`port` of Rekor's API on 127.0.0.1")
	trillianPort := flag.Int("trillian-port", 0, "`port` of Trillian's gRPC server on 127.0.0.1, which is internal")
	signer := flag.String("signer", "", "`file` with Rekor's private key")
	hostname := flag.String("hostname", "127.0.0.1", "`name` in the checkpoints")
	interval := flag.Duration("sequence-interval", 20*time.Millisecond, "how often new entries get their place in the tree")
	flag.Parse()
	if *port <= 0 || *trillianPort <= 0 || *signer == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "rekor1: --port, --trillian-port and --signer are needed")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	go func() { // whoever started us is gone
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if err := serve(ctx, *port, *trillianPort, *signer, *hostname, *interval); err != nil {
		fmt.Fprintln(os.Stderr, "rekor1:", err)
		os.Exit(1)
	}
}

// serve runs Trillian and Rekor until ctx ends, then lets the requests that run finish.
func serve(ctx context.Context, port, trillianPort int, signer, hostname string, interval time.Duration) error {
	trillian, err := startTrillian(trillianPort, interval)
	if err != nil {
		return err
	}
	defer trillian.stop()
	handler, err := rekor(trillianPort, signer, hostname)
	if err != nil {
		return err
	}
	defer api.StopAPI()

	l, err := net.Listen("tcp4", loopback(port))
	if err != nil {
		return fmt.Errorf("starting Rekor: %w", err)
	}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 30 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving Rekor: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := srv.Shutdown(end); err != nil {
		return fmt.Errorf("stopping Rekor: %w", errors.Join(err, srv.Close()))
	}
	return nil
}

// rekor is the handler of Rekor's API, set up as its own serve command does it, but without that command's metrics listener, which
// is on all interfaces. It makes a new tree in Trillian. Rekor's settings are global in viper.
func rekor(trillianPort int, signer, hostname string) (handler http.Handler, err error) {
	log.ConfigureLogger("prod", "")
	for k, v := range map[string]any{
		"rekor_server.hostname":       hostname,
		"rekor_server.signer":         signer,
		"trillian_log_server.address": "127.0.0.1",
		"trillian_log_server.port":    trillianPort,
		// All but searchIndex, which needs Redis or MySQL.
		"enabled_api_endpoints": []string{
			"getLogInfo", "getPublicKey", "getLogProof", "createLogEntry", "getLogEntryByIndex", "getLogEntryByUUID", "searchLogQuery",
		},
		"enable_retrieve_api":        false,
		"enable_attestation_storage": false,
		"max_request_body_size":      4 << 20,
	} {
		viper.Set(k, v)
	}
	defer func() { // Rekor panics where others return an error
		if r := recover(); r != nil {
			err = fmt.Errorf("configuring Rekor: %v", r)
		}
	}()
	doc, err := loads.Embedded(restapi.SwaggerJSON, restapi.FlatSwaggerJSON)
	if err != nil {
		return nil, err
	}
	server := restapi.NewServer(operations.NewRekorServerAPI(doc))
	api.ConfigureAPI(0)
	server.ConfigureAPI()
	return server.GetHandler(), nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
