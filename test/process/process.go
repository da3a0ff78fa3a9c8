// Package process builds the programs of this repository and runs them as processes, for the integration and fault
// tests and the benchmarks: they look at callstream from outside, as an operator does.
package process

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// Build compiles services/<name>/cmd/<name> for each name into dir. flags are go build's own, such as -race.
func Build(ctx context.Context, dir string, flags []string, names ...string) error {
	args := append([]string{"build", "-o", dir + string(filepath.Separator)}, flags...)
	for _, name := range names {
		args = append(args, fmt.Sprintf("github.com/callstream/callstream/services/%s/cmd/%s", name, name))
	}
	build := exec.CommandContext(ctx, "go", args...)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return nil
}

// Options say what to run.
type Options struct {
	Binary string
	Args   []string
	// Env is the environment besides PATH, HOME and CALLSTREAM_DATA_DIR, as name=value; nothing else is inherited.
	Env []string
	// Dir is the data directory and the working directory; it is made where it is missing.
	Dir string
	// Log is the file that its output is appended to; where it is empty, that is named after the binary, in Dir.
	Log string
}

// Process is a program that runs.
type Process struct {
	dir  string
	log  string
	cmd  *exec.Cmd
	exit chan struct{}
	err  error // valid once exit is closed
}

// Start runs a program until Kill or Terminate. The system kills it when this process dies.
func Start(o Options) (*Process, error) {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a directory for %s: %w", o.Binary, err)
	}
	// A leftover of an earlier run in this directory would be read as this run's addresses.
	if err := os.Remove(filepath.Join(o.Dir, addressFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove an old address file: %w", err)
	}
	p := &Process{dir: o.Dir, log: cmp.Or(o.Log, filepath.Join(o.Dir, filepath.Base(o.Binary)+".log")), exit: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", o.Binary, err)
	}
	defer log.Close()
	p.cmd = exec.CommandContext(context.Background(), o.Binary, o.Args...)
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "CALLSTREAM_DATA_DIR=" + o.Dir}, o.Env...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = o.Dir, log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		// The parent that the system watches is the thread that starts it: keep that thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.exit)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Binary, err)
	}
	return p, nil
}

// Kill ends the process as a power cut would: no handler of its own runs. It is safe to repeat.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.exit
}

// Terminate asks the process to drain, and waits for its end; the error is nil for status 0. When ctx ends first the
// process is killed.
func (p *Process) Terminate(ctx context.Context) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ask %s to end: %w", p.cmd.Path, err)
	}
	select {
	case <-p.exit:
		return p.err
	case <-ctx.Done():
		p.Kill()
		return fmt.Errorf("%s did not end when it was asked to: %w", p.cmd.Path, ctx.Err())
	}
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.exit }

// Addresses are where a process listens.
type Addresses struct {
	HTTP           string `json:"http"`
	Kafka          string `json:"kafka"`
	SchemaRegistry string `json:"schema_registry"`
}

const addressFile = "addresses.json"

// Ready waits until the process has written its addresses, which it does once it is ready. An error holds the end of the
// process's log.
func (p *Process) Ready(ctx context.Context) (Addresses, error) {
	var a Addresses
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		raw, err := os.ReadFile(filepath.Join(p.dir, addressFile))
		if err == nil && json.Unmarshal(raw, &a) == nil {
			return a, nil
		}
		select {
		case <-tick.C:
		case <-p.exit:
			return a, fmt.Errorf("%s ended before it was ready (%w); its log:\n%s", p.cmd.Path, p.err, p.Log())
		case <-ctx.Done():
			return a, fmt.Errorf("%s is not ready: %w; its log:\n%s", p.cmd.Path, ctx.Err(), p.Log())
		}
	}
}

// Log is the end of what the process has written.
func (p *Process) Log() string {
	const most = 8 << 10
	f, err := os.Open(p.log)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}
