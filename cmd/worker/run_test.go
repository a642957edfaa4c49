package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
)

func TestAWorkerWaitsForWhatItNeedsToBegin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		env := &command.Env{Log: slog.New(slog.DiscardHandler)}
		outages := []error{fmt.Errorf("opening: %w", queue.ErrAway), &command.Error{Code: command.ExitUpstream, Err: errors.New("503")}}
		n := 0
		began := time.Now()
		if err := patiently(t.Context(), env, "test", func() error {
			if n++; n <= 40 {
				return outages[n%2]
			}
			return nil
		}); err != nil || n != 41 || time.Since(began) < 2*time.Minute || time.Since(began) > 8*time.Minute {
			t.Errorf("%v after %d attempts in %v", err, n, time.Since(began))
		}
		wrong := command.Usage("", errors.New("wrong"))
		n = 0
		if err := patiently(t.Context(), env, "test", func() error { n++; return wrong }); !errors.Is(err, wrong) || n != 1 {
			t.Errorf("%v after %d attempts", err, n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := patiently(ctx, env, "test", func() error { return outages[0] }); err != nil {
			t.Errorf("stopped while it waited: %v", err)
		}
	})
}
