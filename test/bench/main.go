// Command bench measures callstream against the simplest thing that could do the same, both in one run on one machine,
// and prints a table:
//
//	go run ./test/bench                       every row, about half an hour
//	go run ./test/bench -rows isolation,ingest
//	go run ./test/bench -list
//
// What is compared takes turns, and each ratio is the median over the turns: the speed of a shared machine drifts by more
// than what is to be seen. Only the ratios carry over to other machines. It runs on Linux: CPU time and memory of the
// programs come from /proc.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/callstream/callstream/test/process"
)

// line is one figure of the table.
type line struct{ figure, bare, ours, ratio, target string }

// row is what can be measured by itself; it may give several lines.
type row struct {
	name, about string
	run         func(context.Context, *bench) ([]line, error)
}

// rows are all of them, in the order of the table. Each is bounded: rounds of a fixed count or time.
func rows() []row {
	return []row{
		{"dispatcher", "throughput and CPU against a loop that only reads and POSTs (6 min)", dispatcherRow},
		{"isolation", "what others notice of an endpoint that hangs or fails (8 min)", isolationRow},
		{"filter", "an event with 100,000 subscriptions of others against 100 (3 min)", filterRow},
		{"ingest", "the producer against a server that only produces (1 min)", ingestRow},
		{"pipeline", "everything in one process against a bare pipeline of three stages, at full speed (3 min)", pipelineRow},
		{"latency", "the POST to the endpoint's first byte, against the bare pipeline (4 min)", latencyRow},
		{"parked", "memory with a million parked retries against none (3 min)", parkedRow},
		{"fleet", "10,000 endpoints, one of a hundred dead, ten minutes of traffic in 75 s (2 min)", fleetRow},
		{"scaling", "how long a partition pauses while dispatchers come and go (3 min)", scalingRow},
	}
}

// bench is what rows share.
type bench struct {
	dir    string // for data; a fresh directory in it for each process
	bin    string // the programs
	root   string // of the repository
	rounds int
	log    io.Writer
	serial int
}

// data is a new directory.
func (b *bench) data(name string) string {
	b.serial++
	return filepath.Join(b.dir, fmt.Sprintf("%s-%d", name, b.serial))
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.log, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

func main() {
	if role := os.Getenv(roleVariable); role != "" {
		if err := play(role); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context) error {
	list := flag.Bool("list", false, "name the rows and end")
	only := flag.String("rows", "", "rows to measure, separated by commas; empty for all")
	rounds := flag.Int("rounds", 3, "turns of each side, where a row says nothing else")
	flag.Parse()
	names := strings.FieldsFunc(*only, func(r rune) bool { return r == ',' })
	var chosen []row
	for _, r := range rows() {
		if *list {
			fmt.Printf("%-12s %s\n", r.name, r.about)
		}
		if len(names) == 0 || slices.Contains(names, r.name) {
			chosen = append(chosen, r)
		}
	}
	if *list {
		return nil
	}
	if len(names) > len(chosen) {
		return fmt.Errorf("%s: not all of them are rows: -list names those", *only)
	}
	b := &bench{rounds: *rounds, log: os.Stderr}
	var err error
	if b.root, err = repository(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "callstream-bench-"); err != nil {
		return fmt.Errorf("make a directory for the data: %w", err)
	}
	defer func() { _ = os.RemoveAll(b.dir) }()
	b.bin = filepath.Join(b.dir, "bin")
	if err := process.Build(ctx, b.bin, nil, "callstream", "dispatcher"); err != nil {
		return err
	}
	var failed []error
	var all []line
	for _, r := range chosen {
		b.say("%s: %s", r.name, r.about)
		lines, err := r.run(ctx, b)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", r.name, err))
			b.say("%s: %v", r.name, err)
		}
		all = append(all, lines...)
		if ctx.Err() != nil {
			break
		}
	}
	table(os.Stdout, all)
	return errors.Join(failed...)
}

// table prints lines in columns that Markdown reads as a table.
func table(w io.Writer, lines []line) {
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "| figure\t| bare\t| callstream\t| ratio\t| target\t|")
	fmt.Fprintln(t, "|---\t|---\t|---\t|---\t|---\t|")
	for _, l := range lines {
		fmt.Fprintf(t, "| %s\t| %s\t| %s\t| %s\t| %s\t|\n", l.figure, l.bare, l.ours, l.ratio, l.target)
	}
	_ = t.Flush()
}

var errNoRepository = errors.New("no go.work above the working directory: run it inside the repository")

// repository is the folder with the workspace file.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errNoRepository
		}
		dir = up
	}
}

// quantile is the value that a share q of all doesn't exceed; 0 of none.
func quantile[T ~float64 | ~int64](all []T, q float64) T {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Clone(all)
	slices.Sort(sorted)
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func median[T ~float64 | ~int64](all []T) T { return quantile(all, 0.5) }

// ratios divides each by the other's of the same turn.
func ratios[T ~float64 | ~int64](ours, bare []T) []float64 {
	out := make([]float64, 0, len(ours))
	for i := range ours {
		if i < len(bare) && bare[i] != 0 {
			out = append(out, float64(ours[i])/float64(bare[i]))
		}
	}
	return out
}

func times(r float64) string { return fmt.Sprintf("%.2f", r) }

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
