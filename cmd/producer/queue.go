package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/pipeline/queue"
)

// queueCmd looks after the queue's streams, buckets and consumers.
type queueCmd struct {
	Check   queueCheckCmd   `cmd:"" help:"List streams, buckets and consumers, and each setting that is not what this version wants. Ends with 3 if there is any; changes nothing."`
	Migrate queueMigrateCmd `cmd:"" help:"Create what is missing and change what can be changed in place, while workers go on. Removes no message; ends with 3 if something is left for you to do."`
}

// queuePlace says which queue.
type queuePlace struct {
	command.QueueFlags
	To string `placeholder:"DIR|s3://BUCKET/PREFIX" help:"Channel whose embedded server's state to look at, where neither --nats nor --state is given."`
}

func (p *queuePlace) connect(ctx context.Context, env *command.Env) (*queue.Conn, queue.Options, func(), error) {
	if p.Replicas != 0 && p.Replicas != 1 && p.Replicas != 3 && p.Replicas != 5 {
		return nil, queue.Options{}, nil, command.Usage("give 1 or 3", fmt.Errorf("--replicas: %d", p.Replicas))
	}
	to, err := whichQueue(&p.QueueFlags, p.To)
	if err != nil {
		return nil, queue.Options{}, nil, err
	}
	return p.Connect(ctx, env, to)
}

// queueReport is what both commands print.
type queueReport struct {
	Schema string `json:"schema"`
	*queue.Report
	Differences int `json:"differences"`
	// Sync is what the servers' monitoring ports say; absent where none was given.
	Sync []queue.Sync `json:"sync,omitempty"`
	// Durability says what is known of when the server syncs: "always", "interval", or "unknown".
	Durability string `json:"durability"`
}

const queueSchema = "hallmark.queue/1"

type queueCheckCmd struct {
	queuePlace
	Monitor []string `name:"nats-monitor" placeholder:"URL" help:"Monitoring port of each NATS server (http://HOST:8222): looks whether it syncs what it acknowledges. That cannot be seen otherwise."`
}

// Run checks.
func (c *queueCheckCmd) Run(ctx context.Context, env *command.Env) error {
	nc, o, closeAll, err := c.connect(ctx, env)
	if err != nil {
		return err
	}
	defer closeAll()
	r, err := queue.Check(ctx, nc, o)
	if err != nil {
		return queueError(err)
	}
	out := queueReport{Schema: queueSchema, Report: r, Differences: r.Findings(), Durability: "unknown"}
	if c.NATS == "" {
		out.Durability = "always" // the embedded server's
	}
	client := &http.Client{Timeout: 10 * time.Second}
	for _, m := range c.Monitor {
		s, err := queue.ReadSync(ctx, client, m)
		if err != nil {
			return err
		}
		out.Sync = append(out.Sync, s)
		if out.Durability != "interval" {
			out.Durability = "always"
		}
		if !s.Always {
			out.Durability = "interval"
		}
	}
	if err := env.Result(out, func(w io.Writer) { out.text(w, false) }); err != nil {
		return err
	}
	return out.verdict("`producer queue migrate` changes what can be changed in place")
}

type queueMigrateCmd struct {
	queuePlace
	Timeout time.Duration `default:"10m" help:"How long to wait until new replicas have caught up."`
}

// Run migrates.
func (c *queueMigrateCmd) Run(ctx context.Context, env *command.Env) error {
	nc, o, closeAll, err := c.connect(ctx, env)
	if err != nil {
		return err
	}
	defer closeAll()
	mctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	r, err := queue.Migrate(mctx, nc, o)
	if r == nil {
		return queueError(err)
	}
	out := queueReport{Schema: queueSchema, Report: r, Differences: r.Findings(), Durability: "unknown"}
	if c.NATS == "" {
		out.Durability = "always"
	}
	if err := env.Result(out, func(w io.Writer) { out.text(w, true) }); err != nil {
		return err
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &command.Error{Code: command.ExitUpstream, Err: err, Hint: "the changes are made and the servers go on copying; `producer queue check` shows who is behind"}
	}
	return out.verdict("what is said above is for a person to do")
}

func queueError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return &command.Error{Code: command.ExitUpstream, Err: err, Hint: "run the same command again once the server answers"}
	}
	return err
}

// verdict is the command's error if something differs.
func (r *queueReport) verdict(hint string) error {
	if r.Differences == 0 {
		return nil
	}
	return &command.Error{Code: command.ExitQuarantined, Hint: hint,
		Err: fmt.Errorf("%d settings are not what this version wants", r.Differences)}
}

func (r *queueReport) text(w io.Writer, migrated bool) {
	fmt.Fprintf(w, "NATS %s", r.Server)
	if r.Cluster != "" {
		fmt.Fprintf(w, ", cluster %s", r.Cluster)
	}
	fmt.Fprintln(w)
	for _, a := range r.Assets {
		fmt.Fprintf(w, "%-8s %s", a.Kind, a.Name)
		switch {
		case a.Missing:
			fmt.Fprint(w, "  missing; it is created by the first command that works with the queue")
		case a.Created:
			fmt.Fprint(w, "  created")
		case a.Kind == queue.AssetConsumer:
			fmt.Fprintf(w, "  %d not acknowledged", a.Messages)
		default:
			fmt.Fprintf(w, "  %s, %s", quantity(a.Replicas, "replica", "replicas"), quantity(int(a.Messages), "message", "messages"))
		}
		if len(a.Behind) > 0 {
			fmt.Fprintf(w, "; behind: %s", strings.Join(a.Behind, ", "))
		}
		fmt.Fprintln(w)
		for _, f := range a.Changed {
			fmt.Fprintf(w, "    %s was %s, is %s now\n", f.Setting, f.Have, f.Want)
			if f.After != "" {
				fmt.Fprintf(w, "      %s\n", f.After)
			}
		}
		for _, f := range a.Findings {
			fmt.Fprintf(w, "    %s\n", f.Difference)
			switch {
			case f.Manual != "":
				fmt.Fprintf(w, "      %s\n", f.Manual)
			case f.Error != "":
				fmt.Fprintf(w, "      the server refuses to change it: %s\n", f.Error)
			case migrated:
				fmt.Fprint(w, "      changed by somebody else meanwhile\n")
			}
		}
	}
	switch r.Durability {
	case "always":
		fmt.Fprintln(w, "what is acknowledged is on the disk (sync_interval: always)")
	case "interval":
		for _, s := range r.Sync {
			if !s.Always {
				fmt.Fprintf(w, "warning: server %s syncs every %v: a power cut can lose what it acknowledged since; set jetstream { sync_interval: always }\n", s.Server, s.Interval)
			}
		}
	default:
		fmt.Fprintln(w, "whether what is acknowledged is on the disk cannot be seen from here: jetstream { sync_interval: always } makes it so (check --nats-monitor URL looks)")
	}
}

func quantity(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
