package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/extension"
	trillianlog "github.com/google/trillian/log"
	"github.com/google/trillian/monitoring"
	"github.com/google/trillian/quota"
	"github.com/google/trillian/server"
	"github.com/google/trillian/server/admin"
	"github.com/google/trillian/storage"
	_ "github.com/google/trillian/storage/memory" // registers the storage "memory"
	"github.com/google/trillian/util/clock"
	"github.com/google/trillian/util/election2"
	"google.golang.org/grpc"
)

// backend is Trillian's log server and sequencer.
type backend struct {
	grpc   *grpc.Server
	cancel context.CancelFunc // of the sequencer
	wg     sync.WaitGroup
}

func startTrillian(port int, interval time.Duration) (*backend, error) {
	metrics := monitoring.InertMetricFactory{}
	provider, err := storage.NewProvider("memory", metrics)
	if err != nil {
		return nil, fmt.Errorf("opening Trillian's storage: %w", err)
	}
	registry := extension.Registry{
		AdminStorage:    provider.AdminStorage(),
		LogStorage:      provider.LogStorage(),
		ElectionFactory: election2.NoopFactory{},
		QuotaManager:    quota.Noop(),
		MetricFactory:   metrics,
	}
	l, err := net.Listen("tcp4", loopback(port))
	if err != nil {
		return nil, fmt.Errorf("starting Trillian: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b := &backend{grpc: grpc.NewServer(), cancel: cancel}
	trillian.RegisterTrillianLogServer(b.grpc, server.NewTrillianLogRPCServer(registry, clock.System))
	trillian.RegisterTrillianAdminServer(b.grpc, admin.New(registry, []trillian.TreeType{trillian.TreeType_LOG}))
	b.wg.Go(func() { _ = b.grpc.Serve(l) }) // ends by stop
	sequencer := trillianlog.NewOperationManager(trillianlog.OperationInfo{
		Registry:    registry,
		BatchSize:   1000,
		NumWorkers:  1,
		RunInterval: interval,
		TimeSource:  clock.System,
	}, trillianlog.NewSequencerManager(registry, 0))
	b.wg.Go(func() { sequencer.OperationLoop(ctx) })
	return b, nil
}

func (b *backend) stop() {
	b.grpc.Stop() // Rekor has finished its requests
	b.cancel()
	b.wg.Wait()
}
