package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Goals of the comparison at goalPackages packages.
const (
	goalPackages = 100
	goalBytes    = 50        // times fewer bytes than the better peer
	goalPeak     = 256 << 20 // bytes of memory
)

// Report is the outcome.
type Report struct {
	Records       int      `json:"records"`
	Names         int      `json:"names"`
	RepodataBytes int64    `json:"repodataBytes"`
	Rows          []Row    `json:"rows"`
	Ratios        []Ratio  `json:"ratios"`
	PeakBytes     int64    `json:"hallmarkPeakBytes"`
	Missing       []string `json:"missing,omitempty"`
	Notes         []string `json:"notes"`
}

// What a row measures.
const (
	rowStart   = "start alone"
	rowPrepare = "index all"
	rowUpdate  = "update"
	rowCatchUp = "catch up"
	rowAll     = "all"
)

// Row is one tool's run.
type Row struct {
	Tool     string `json:"tool"`
	What     string `json:"what"`
	Packages int    `json:"packages"`
	Usage
	Calls *Calls `json:"calls,omitempty"`
	// net is without the start.
	net Usage
}

// Ratio is the better peer's over Hallmark's.
type Ratio struct {
	What     string  `json:"what"`
	Packages int     `json:"packages"`
	Bytes    float64 `json:"bytes"`
	Wall     float64 `json:"wall"`
	CPU      float64 `json:"cpu"`
	// Of names the peers that were better in each.
	Of []string `json:"of"`
}

func (r *Report) add(t *tool, what string, packages int, u Usage, c *Calls) {
	r.Rows = append(r.Rows, Row{Tool: t.name, What: what, Packages: packages, Usage: u, Calls: c, net: u.less(t.start)})
	say("%s: %s, %d packages: read %s, written %s, %s, memory %s", t.name, what, packages, size(u.Read), size(u.Written), seconds(u.Wall), size(u.Peak))
}

// compare fills in the ratios. ours is Hallmark's name.
func (r *Report) compare(ours string) {
	type job struct {
		what     string
		packages int
	}
	mine := map[job]Usage{}
	var jobs []job
	for _, row := range r.Rows {
		if row.Tool != ours {
			continue
		}
		if row.What == rowUpdate || row.What == rowCatchUp || row.What == rowAll {
			r.PeakBytes = max(r.PeakBytes, row.Peak)
		}
		if row.What == rowUpdate || row.What == rowAll {
			j := job{row.What, row.Packages}
			mine[j], jobs = row.net, append(jobs, j)
		}
	}
	for _, j := range jobs {
		best := map[string]Row{}
		measures := map[string]func(Usage) float64{
			"bytes": func(u Usage) float64 { return float64(u.Bytes()) },
			"wall":  func(u Usage) float64 { return u.Wall.Seconds() },
			"cpu":   func(u Usage) float64 { return u.CPU.Seconds() },
		}
		for _, row := range r.Rows {
			if row.Tool == ours || row.What != j.what || row.Packages != j.packages {
				continue
			}
			for m, of := range measures {
				if b, ok := best[m]; !ok || of(row.net) < of(b.net) {
					best[m] = row
				}
			}
		}
		if len(best) == 0 {
			continue
		}
		times := func(m string) float64 { return measures[m](best[m].net) / max(measures[m](mine[j]), 1e-9) }
		r.Ratios = append(r.Ratios, Ratio{
			What: j.what, Packages: j.packages, Bytes: times("bytes"), Wall: times("wall"), CPU: times("cpu"),
			Of: []string{"bytes: " + best["bytes"].Tool, "wall: " + best["wall"].Tool, "cpu: " + best["cpu"].Tool},
		})
	}
}

// goals says whether what is wanted was reached.
func (r *Report) goals() []string {
	verdict := map[bool]string{true: "reached", false: "MISSED"}
	var lines []string
	for _, q := range r.Ratios {
		if q.What == rowUpdate && q.Packages == goalPackages {
			lines = append(lines,
				fmt.Sprintf("%s: %d packages with at least %d times fewer bytes than the better peer: %.1f", verdict[q.Bytes >= goalBytes], goalPackages, goalBytes, q.Bytes),
				fmt.Sprintf("%s: and in less time: %.1f times", verdict[q.Wall > 1], q.Wall))
		}
	}
	return append(lines, fmt.Sprintf("%s: at most %d MiB of memory: %.0f MiB", verdict[r.PeakBytes <= goalPeak], goalPeak>>20, float64(r.PeakBytes)/(1<<20)))
}

func (r *Report) print(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	fmt.Fprintf(w, "%s: %d records of %d names, repodata.json %s\n\n", subdir, r.Records, r.Names, size(r.RepodataBytes))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "new packages\twhat\ttool\tread\twritten\tcalls\tCPU\ttime\tmemory\t")
	for _, row := range r.Rows {
		calls := fmt.Sprintf("%d sys", row.Reads+row.Writes)
		if c := row.Calls; c != nil {
			calls = fmt.Sprintf("%d put %d get %d head, %s", c.Put, c.Get, c.Head, calls)
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", row.Packages, row.What, row.Tool, size(row.Read), size(row.Written),
			calls, seconds(row.CPU), seconds(row.Wall), size(row.Peak))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(r.Ratios) > 0 {
		fmt.Fprintln(w, "\nthe better peer / hallmark, without the peers' start:")
	}
	for _, q := range r.Ratios {
		fmt.Fprintf(w, "  %6d packages, %s: bytes %.1f, time %.1f, CPU %.1f (%s)\n", q.Packages, q.What, q.Bytes, q.Wall, q.CPU, strings.Join(q.Of, ", "))
	}
	if len(r.Ratios) > 0 {
		fmt.Fprintln(w)
		for _, line := range r.goals() {
			fmt.Fprintln(w, line)
		}
	}
	fmt.Fprintln(w)
	for _, line := range append(r.Missing, r.Notes...) {
		fmt.Fprintln(w, "-", line)
	}
	return nil
}

func size(n int64) string {
	switch f := float64(n); {
	case f >= 100e6:
		return fmt.Sprintf("%.0f MB", f/1e6)
	case f >= 1e6:
		return fmt.Sprintf("%.1f MB", f/1e6)
	default:
		return fmt.Sprintf("%.1f kB", f/1e3)
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
