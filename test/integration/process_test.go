package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait of the suite. It is far above what a wait takes, even with the race detector on a busy
// machine, so that running into it means that something is stuck.
const patience = 90 * time.Second

// process is one running binary of ours.
type process struct {
	name string
	dir  string // its data directory, where it writes addresses.json
	cmd  *exec.Cmd
	log  string
	exit chan struct{} // closed when it has ended

	mu  sync.Mutex
	err error
}

// start runs a binary with the environment given and nothing else of ours, and ends it with the test. It doesn't wait
// for readiness: see address.
func start(t testing.TB, name, binary string, args, env []string, dir string) *process {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// A leftover file of an earlier run in this directory would be read as this run's addresses.
	if err := os.Remove(filepath.Join(dir, "addresses.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	logPath := filepath.Join(dir, name+".log")
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer logFile.Close()
	p := &process{name: name, dir: dir, log: logPath, exit: make(chan struct{})}
	p.cmd = exec.Command(binary, args...) //nolint:noctx // ended by kill or terminate, and by its parent's death
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "CALLSTREAM_DATA_DIR=" + dir}, env...)
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = logFile, logFile
	// A test binary that dies, by its time limit say, must not leave services behind.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		err := p.cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(p.exit)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("--- log of %s:\n%s", name, tail(logPath, 8<<10))
		}
	})
	return p
}

// kill ends the process as a power cut would: no handler runs.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exit
}

// terminate asks the process to drain and waits for its end. It returns the exit error, nil for status 0.
func (p *process) terminate(t testing.TB) error {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("terminate %s: %v", p.name, err)
	}
	select {
	case <-p.exit:
	case <-time.After(patience):
		t.Fatalf("%s did not end after SIGTERM; its log:\n%s", p.name, tail(p.log, 8<<10))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// addresses is what a process writes once its /readyz answers 200.
type addresses struct {
	HTTP           string `json:"http"`
	Kafka          string `json:"kafka"`
	SchemaRegistry string `json:"schema_registry"`
}

// ready waits for addresses.json, and so for readiness.
func (p *process) ready(t testing.TB) addresses {
	t.Helper()
	var a addresses
	eventually(t, p.name+" is ready", func() error {
		select {
		case <-p.exit:
			p.mu.Lock()
			defer p.mu.Unlock()
			t.Fatalf("%s ended before it was ready (%v); its log:\n%s", p.name, p.err, tail(p.log, 8<<10))
		default:
		}
		raw, err := os.ReadFile(filepath.Join(p.dir, "addresses.json"))
		if err != nil {
			return err
		}
		return json.Unmarshal(raw, &a)
	})
	return a
}

// eventually tries cond until it returns nil, and fails with its last error when patience is at its end. It is the one
// way this suite waits.
func eventually(t testing.TB, what string, cond func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for: %s: %v", patience, what, err)
		}
		<-tick.C
	}
}

// tail returns the end of a file, for failure messages.
func tail(path string, most int64) string {
	f, err := os.Open(path)
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

// reply is an HTTP answer, read whole.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r reply) String() string { return fmt.Sprintf("%d %s", r.status, r.body) }

// decode reads the answer's JSON into a value of type T.
func decode[T any](t testing.TB, r reply) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatalf("answer is not the JSON expected: %v: %s", err, r)
	}
	return v
}

// request sends one HTTP request and reads its answer whole. An error is a transport error.
func request(ctx context.Context, method, url string, header http.Header, body io.Reader) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return reply{}, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return reply{}, err
	}
	return reply{status: res.StatusCode, header: res.Header, body: raw}, nil
}
