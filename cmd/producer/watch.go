package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/pipeline/event"
)

// watchCmd prints events as they come: the stream that subscribers read.
type watchCmd struct {
	command.QueueFlags
	To       string    `placeholder:"DIR|s3://BUCKET/PREFIX" help:"Channel whose embedded server's state to look at, where neither --nats nor --state is given."`
	Campaign string    `help:"Only this campaign."`
	Channel  string    `help:"Only this channel (its URL without the scheme)."`
	Subdir   string    `help:"Only this subdir."`
	Name     string    `help:"Only packages of this name."`
	Events   []string  `default:"signed" help:"Which events: signed, published, skipped, failed, aborted, sourcesverified, sourcesrefused, sourcesunverified."`
	Since    time.Time `help:"Replay from this time on (RFC 3339) before what is new."`
	FromSeq  uint64    `name:"from-sequence" help:"Replay from this sequence number on before what is new."`
	Replay   bool      `help:"Replay everything that the server has before what is new."`
	Count    int       `help:"End after this many events (default: never)."`
}

// Run watches.
func (c *watchCmd) Run(ctx context.Context, env *command.Env) error {
	q, closeQueue, err := openExisting(ctx, env, &c.QueueFlags, c.To)
	if err != nil {
		return err
	}
	defer closeQueue()
	n := 0
	enc := json.NewEncoder(env.Stdout)
	enc.SetEscapeHTML(false)
	for e, err := range event.Subscribe(ctx, q.JetStream(), event.Filter{Campaign: c.Campaign, Channel: c.Channel, Subdir: c.Subdir,
		Name: c.Name, Events: c.Events, Since: c.Since, FromSequence: c.FromSeq,
		New: c.Since.IsZero() && c.FromSeq == 0 && !c.Replay}) {
		if err != nil {
			if event.IsMalformed(err) {
				env.Log.Warn("left out an event that cannot be read", "error", err)
				continue
			}
			if errors.Is(err, context.Canceled) {
				break
			}
			return fmt.Errorf("reading events: %w", err)
		}
		if env.JSON {
			err = enc.Encode(e)
		} else {
			_, err = fmt.Fprintln(env.Stdout, eventLine(e))
		}
		if err != nil {
			return err
		}
		if n++; c.Count > 0 && n >= c.Count {
			return nil
		}
	}
	return context.Cause(ctx) // interrupted: that is how watching ends
}

// eventLine is an event for people: what happened to which package, and who signed it.
func eventLine(e *event.Event) string {
	d := e.Details
	line := fmt.Sprintf("%s  %-9s  %s/%s", e.Time.UTC().Format(time.RFC3339), e.Tokens.Event, d.Package.Subdir, d.Package.Filename)
	if d.Signer != nil {
		line += "  " + d.Signer.Identity
	}
	for _, l := range d.Log {
		line += fmt.Sprintf("  log index %d", l.Index)
	}
	if d.Sources != nil && strings.HasPrefix(e.Tokens.Event, "sources") {
		line += sourcesLine(d.Sources)
	}
	if d.Reason != nil {
		line += "  " + d.Reason.Cause
	}
	return line
}
