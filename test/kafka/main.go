// Command kafka starts Apache Kafka on this machine, runs a command with its address in CALLSTREAM_KAFKA_BROKERS, and
// stops it again:
//
//	go run ./test/kafka [-brokers 3] go test ./test/integration/...
//
// Without a command it prints the address and runs until it is interrupted. Where CALLSTREAM_KAFKA_BROKERS names a
// cluster already, it starts none. Java 17 and Maven must be installed; the first run has Maven fetch the jars.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/callstream/callstream/pkg/kafkatest"
)

func main() {
	brokers := flag.Int("brokers", 1, "how many brokers to start")
	flag.Parse()
	code, err := run(*brokers, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "kafka:", err)
	}
	os.Exit(code)
}

// run returns the exit status of the command.
func run(brokers int, command []string) (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	addrs := os.Getenv("CALLSTREAM_KAFKA_BROKERS")
	if addrs == "" {
		dir, err := os.MkdirTemp("", "callstream-kafka-")
		if err != nil {
			return 1, fmt.Errorf("make a directory for the brokers: %w", err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		began := time.Now()
		a, err := kafkatest.StartApache(ctx, brokers, dir)
		if err != nil {
			return 1, err
		}
		defer a.Stop()
		addrs = strings.Join(a.Brokers, ",")
		fmt.Fprintf(os.Stderr, "kafka: Apache Kafka at %s, after %.1f s\n", addrs, time.Since(began).Seconds())
	}
	if len(command) == 0 {
		fmt.Println(addrs)
		<-ctx.Done()
		return 0, nil
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "CALLSTREAM_TEST_KAFKA=apache", "CALLSTREAM_KAFKA_BROKERS="+addrs)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(1, exit.ExitCode()), nil
	}
	if err != nil {
		return 1, fmt.Errorf("run %s: %w", command[0], err)
	}
	return 0, nil
}
