package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// metrics are what one benchmark reported, by unit.
type metrics map[string]float64

// goBench runs Go benchmarks and returns their metrics by name, without "Benchmark" and the number of processors.
func (b *bench) goBench(ctx context.Context, pkg, pattern, benchtime string) (map[string]metrics, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", pattern, "-benchtime", benchtime, "-timeout", "30m", pkg)
	cmd.Dir = b.root
	cmd.Env = append(os.Environ(), "GOGC=400") // what the programs run with
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	all := map[string]metrics{}
	for text := range bytes.Lines(out) {
		fields := strings.Fields(string(text))
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(fields[0], "Benchmark")
		if at := strings.LastIndexByte(name, '-'); at > 0 {
			name = name[:at]
		}
		m := metrics{}
		for i := 2; i+1 < len(fields); i += 2 {
			if v, err := strconv.ParseFloat(fields[i], 64); err == nil {
				m[fields[i+1]] = v
			}
		}
		all[name] = m
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: no benchmark ran\n%s", strings.Join(cmd.Args, " "), out)
	}
	return all, nil
}

// dispatcherRow is the dispatcher's own benchmark: both sides run in one process each beside the broker's and the
// endpoint's, so that only the sender's CPU counts.
func dispatcherRow(ctx context.Context, b *bench) ([]line, error) {
	var lines []line
	for _, broker := range []string{"embedded", "apache"} {
		all, err := b.goBench(ctx, "./services/dispatcher", "AgainstTheBareLoop/"+broker, "1x")
		if err != nil {
			return lines, err
		}
		for _, inFlight := range []string{"64", "128", "256"} {
			m := all["AgainstTheBareLoop/"+broker+"/"+inFlight]
			figure := fmt.Sprintf("dispatcher, 2 KB, %s in flight, %s", inFlight, broker)
			lines = append(lines,
				line{figure, fmt.Sprintf("%.0f/s", m["bare-deliveries/s"]), fmt.Sprintf("%.0f/s", m["deliveries/s"]), times(m["of-bare-rate"]), "≥ 0.85"},
				line{"its CPU for 1,000", fmt.Sprintf("%.1f ms", m["bare-cpu-ms/1k"]), fmt.Sprintf("%.1f ms", m["cpu-ms/1k"]), times(m["of-bare-cpu"]), "≤ 1.3"})
		}
	}
	return lines, nil
}

func filterRow(ctx context.Context, b *bench) ([]line, error) {
	all, err := b.goBench(ctx, "./services/filter", "OthersSubscriptions", "11x")
	if err != nil {
		return nil, err
	}
	var lines []line
	for _, name := range slices.Sorted(maps.Keys(all)) {
		m := all[name]
		lines = append(lines, line{
			"filter, " + strings.TrimPrefix(name, "OthersSubscriptions/") + ": others' subscriptions, 100 against 100,000",
			fmt.Sprintf("%.2f µs", m["cpu-ns/event-100"]/1000), fmt.Sprintf("%.2f µs", m["cpu-ns/event-100000"]/1000), times(m["ratio"]), "≤ 1.2",
		})
	}
	return lines, nil
}

func ingestRow(ctx context.Context, b *bench) ([]line, error) {
	all, err := b.goBench(ctx, "./services/producer", "Ingest", "20000x")
	if err != nil {
		return nil, err
	}
	m := all["Ingest"]
	return []line{{"ingest, one event a request, 202 after the acknowledgement", fmt.Sprintf("%.0f/s", m["bare-events/s"]), fmt.Sprintf("%.0f/s", m["events/s"]), times(m["ratio"]), "≥ 0.7"}}, nil
}
