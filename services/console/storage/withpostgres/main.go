// Command withpostgres starts a PostgreSQL for tests, runs a command with its URL in CALLSTREAM_TEST_DATABASE_URL, and
// stops it again. Where that variable is set already, it runs the command as it is. It ends with the command's status.
//
//	go run ./services/console/storage/withpostgres go test ./services/console/...
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/callstream/callstream/services/console/storage/pgtest"
)

func main() { os.Exit(start()) }

func start() int {
	// The server ends with the thread that started it, so that it never outlives this process.
	runtime.LockOSThread()
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: withpostgres command [argument…]")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	url := os.Getenv(pgtest.EnvURL)
	if url == "" {
		server, err := pgtest.Start(ctx)
		if err != nil {
			fmt.Fprintln(os.Stderr, "withpostgres:", err)
			return 1
		}
		defer func() {
			if err := server.Stop(); err != nil {
				fmt.Fprintln(os.Stderr, "withpostgres:", err)
			}
		}()
		url = server.URL
	}
	cmd := exec.CommandContext(ctx, os.Args[1], os.Args[2:]...)
	cmd.Env = append(os.Environ(), pgtest.EnvURL+"="+url)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	}
	fmt.Fprintln(os.Stderr, "withpostgres:", err)
	return 1
}
