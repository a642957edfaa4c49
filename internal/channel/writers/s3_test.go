package writers_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/store/storetest"
)

// TestWritersS3 has eight processes publish into one subdir of a real S3 server over a bad network. Conflicts and faults cost
// requests; they are no failures, and nothing is lost.
func TestWritersS3(t *testing.T) {
	t.Parallel()
	server := storetest.StartS3(t)
	p := plan{Writers: 8, Packages: number(t, "HALLMARK_WRITERS", 1000), Least: 50, Most: 200, Seed: chance(t)}
	of := 1000
	if p.Packages < 5000 {
		of = 2000 // most of the time goes into waiting after faults
	}
	n := newNetwork(t, server, p.Seed, of)
	const prefix = "c"
	cmds, outs := make([]*exec.Cmd, p.Writers), make([]bytes.Buffer, p.Writers)
	errs := make([]bytes.Buffer, p.Writers)
	for w := range p.Writers {
		o := order{
			Writer: w, Plans: []plan{p}, Endpoint: n.URL, Bucket: server.Bucket, Prefix: prefix, Access: server.Access, Secret: server.Secret,
			Last: w%4 == 0,
		}
		switch w % 4 {
		case 1:
			o.Small, o.Monolith = -1, 1
		case 2:
			o.Small = -1
		}
		cmds[w] = o.command(t)
		cmds[w].Stdout, cmds[w].Stderr = &outs[w], &errs[w]
		if err := cmds[w].Start(); err != nil {
			t.Fatal(err)
		}
	}
	outcomes := make([]outcome, p.Writers)
	for w, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Errorf("writer %d: %v\n%.4000s", w, err, errs[w].String())
		} else if err := json.Unmarshal(outs[w].Bytes(), &outcomes[w]); err != nil {
			t.Errorf("writer %d said %q: %v", w, outs[w].String(), err)
		}
	}
	if t.Failed() {
		return
	}
	done := n.tally()
	done.log(t, p.Packages, outcomes)
	uploads, again := 0, 0
	for _, o := range outcomes {
		uploads += o.Packages
		again += o.Outages
	}
	if want := p.Packages + (p.Packages+12)/20; uploads != want {
		t.Errorf("%d uploads, want %d", uploads, want)
	}
	// A body that breaks off is the only thing that a writer hears of.
	if most := done.faults["answer broken off"]; again > most {
		t.Errorf("%d calls ended with an outage, %d answers were broken off", again, most)
	}
	for _, f := range faults {
		if done.faults[f.name] == 0 && p.Packages >= 1000 {
			t.Errorf("there was no %q: this test has proved less than it says", f.name)
		}
	}

	// Some writers leave the documents to others. Whoever comes last brings them up to date.
	s, err := server.Open(t.Context(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := channel.New(s, channel.Options{}).Monolith(t.Context(), subdir); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(server.Root, server.Bucket, prefix)
	complete(t, directory(dir), sidecars(p))
	if !t.Failed() {
		channelcheck(t, dir, p.Packages)
	}
	if written, err := channel.New(s, channel.Options{}).Monolith(t.Context(), subdir); err != nil || written {
		t.Errorf("a merge of what has been merged: written %v, %v", written, err)
	}
}
