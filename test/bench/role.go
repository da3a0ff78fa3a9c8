package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/callstream/callstream/pkg/embedded"
	"github.com/callstream/callstream/test/process"
)

// roleVariable has this program play another process of a measurement: its broker, or the bare side.
const roleVariable = "CALLSTREAM_BENCH_ROLE"

// play plays a role until its input ends, which is when its parent is gone. It says in one line where it listens.
func play(role string) error {
	switch role {
	case "broker":
		e, err := embedded.Start(context.Background(), embedded.Config{DataDir: os.Getenv("CALLSTREAM_DATA_DIR")})
		if err != nil {
			return err
		}
		fmt.Println(e.KafkaAddr(), e.RegistryURL())
		_, _ = io.Copy(io.Discard, os.Stdin)
		return e.Close()
	case "pipeline":
		return playBare()
	default:
		return fmt.Errorf("%s=%s: no such role", roleVariable, role)
	}
}

var errRole = errors.New("a process of the measurement did not start")

// actor is a process that plays a role.
type actor struct {
	words []string // what it said
	cmd   *exec.Cmd
	in    io.Closer
}

// cast starts this program in a role, with its data in dir.
func cast(ctx context.Context, role, dir string, env ...string) (*actor, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	a := &actor{cmd: exec.CommandContext(ctx, exe)}
	a.cmd.Env = append(os.Environ(), roleVariable+"="+role, "CALLSTREAM_DATA_DIR="+dir, "GOGC=400") // what the programs run with
	a.cmd.Env = append(a.cmd.Env, env...)
	a.cmd.Stderr = os.Stderr
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errRole, role, err)
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errRole, role, err)
	}
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errRole, role, err)
	}
	text, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.HasPrefix(text, "error:") {
		a.end()
		return nil, fmt.Errorf("%w: %s: %s", errRole, role, text)
	}
	a.words = strings.Fields(text)
	return a, nil
}

func (a *actor) end() {
	_ = a.in.Close()
	_ = a.cmd.Wait()
}

// CPU is the processor time that the process has used.
func (a *actor) CPU() (time.Duration, error) { return process.CPU(a.cmd.Process.Pid) }

// Resident is the memory of the process that is in RAM, in bytes.
func (a *actor) Resident() (int64, error) { return process.Resident(a.cmd.Process.Pid) }
