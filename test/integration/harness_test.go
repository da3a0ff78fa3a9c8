package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/callstream/callstream/pkg/kafkatest"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/test/process"
)

// binaries is the folder with every binary of ours, built once for the test run.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "callstream-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	var flags []string
	if raceDetector {
		flags = append(flags, "-race")
	}
	if err := process.Build(context.Background(), dir, flags, "callstream", "producer", "filter", "dispatcher", "console"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binaries = dir
	return m.Run()
}

// shape is how the services are run.
type shape string

const (
	together shape = "one process" // callstream up
	apart    shape = "apart"       // four binaries, two dispatchers
)

// settings are what a test changes about a pipeline. The zero value is what most tests want.
type settings struct {
	shape       shape
	dispatchers int               // apart: how many dispatchers; 0 means 2
	env         map[string]string // over the suite's defaults
}

// pipeline is a running callstream, seen from outside: HTTP, Kafka and processes.
type pipeline struct {
	t     testing.TB
	shape shape
	dir   string
	env   []string
	*running
}

// running is what changes when processes are started anew; the views of a pipeline that tests have share it.
type running struct {
	mu        sync.Mutex
	producer  string // base URL of POST /v1/events
	console   string // base URL of everything else
	brokers   []string
	registry  string
	processes map[string]*process.Process // by name: up, or producer, filter, console, dispatcher-0, …
	keys      map[string]string           // admin key by tenant
}

// in is the same pipeline for another test.
func (p *pipeline) in(t testing.TB) *pipeline {
	q := *p
	q.t = t
	return &q
}

// base is the URL that requests to a path go to. It changes when a process is started again.
func (p *pipeline) base(method, path string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if method == http.MethodPost && strings.HasPrefix(path, "/v1/events") {
		return p.producer
	}
	return p.console
}

// defaults of the suite: retries fast enough to wait for, endpoints on loopback.
func suiteDefaults() map[string]string {
	return map[string]string{
		"CALLSTREAM_HTTP_ADDR":               "127.0.0.1:0",
		"CALLSTREAM_KAFKA_ADDR":              "127.0.0.1:0",
		"CALLSTREAM_SCHEMA_REGISTRY_ADDR":    "127.0.0.1:0",
		"CALLSTREAM_AUTH":                    "keys",
		"CALLSTREAM_ALLOW_PRIVATE_ENDPOINTS": "true",
		"CALLSTREAM_ALLOW_HTTP_ENDPOINTS":    "true",
		"CALLSTREAM_RETRY_SCHEDULE":          "200ms,500ms,1s",
		"CALLSTREAM_PARTITIONS":              "4",
		"CALLSTREAM_ENCRYPTION_KEY":          "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
	}
}

// startPipeline runs callstream in the shape asked for, on the broker that the run is about: the embedded one, or Apache
// Kafka with CALLSTREAM_TEST_KAFKA=apache. Everything ends with the test.
func startPipeline(t testing.TB, s settings) *pipeline {
	t.Helper()
	p := &pipeline{t: t, shape: s.shape, dir: t.TempDir(), running: &running{processes: map[string]*process.Process{}, keys: map[string]string{}}}
	env := suiteDefaults()
	if onApache := os.Getenv("CALLSTREAM_TEST_KAFKA") == "apache"; s.shape == apart || onApache {
		target := kafkatest.ClusterWith(t, kafkatest.Options{DataDir: filepath.Join(p.dir, "broker"), Compatible: event.Compatible})
		env["CALLSTREAM_KAFKA_BROKERS"] = strings.Join(target.Brokers, ",")
		env["CALLSTREAM_SCHEMA_REGISTRY_URL"] = target.RegistryURL
		p.brokers, p.registry = target.Brokers, target.RegistryURL
	}
	for k, v := range s.env {
		env[k] = v
	}
	for k, v := range env {
		p.env = append(p.env, k+"="+v)
	}
	if s.shape == apart {
		n := s.dispatchers
		if n == 0 {
			n = 2
		}
		p.callstream("topics", "apply")
		for _, name := range []string{"console", "producer", "filter"} {
			p.launch(name)
		}
		for i := range n {
			p.launch(fmt.Sprintf("dispatcher-%d", i))
		}
	} else {
		p.launch("up")
	}
	p.awaitReady()
	return p
}

// launch starts (or starts again) the process of that name, with its own data directory.
func (p *pipeline) launch(name string) {
	p.t.Helper()
	binary, args := name, []string(nil)
	switch {
	case name == "up":
		binary, args = "callstream", []string{"up"}
	case strings.HasPrefix(name, "dispatcher-"):
		binary = "dispatcher"
	}
	proc := start(p.t, name, process.Options{Binary: filepath.Join(binaries, binary), Args: args, Env: p.env, Dir: p.dataDir(name)})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.processes[name] = proc
}

func (p *pipeline) dataDir(name string) string { return filepath.Join(p.dir, name) }

// awaitReady waits for every process, and learns where they listen.
func (p *pipeline) awaitReady() {
	p.t.Helper()
	for _, name := range p.names() {
		a := p.ready(name)
		p.mu.Lock()
		switch name {
		case "up":
			p.producer, p.console = "http://"+a.HTTP, "http://"+a.HTTP
			if a.Kafka != "" {
				p.brokers = []string{a.Kafka}
			}
			if a.SchemaRegistry != "" {
				p.registry = "http://" + a.SchemaRegistry
			}
		case "producer":
			p.producer = "http://" + a.HTTP
		case "console":
			p.console = "http://" + a.HTTP
		}
		p.mu.Unlock()
	}
}

// names lists the processes.
func (p *pipeline) names() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.processes))
}

// process is the present process of that name.
func (p *pipeline) process(name string) *process.Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.processes[name]
}

// callstream runs the command line with the pipeline's environment and returns its standard output.
func (p *pipeline) callstream(args ...string) []byte {
	p.t.Helper()
	out, err := p.tryCallstream(args...)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

func (p *pipeline) tryCallstream(args ...string) ([]byte, error) {
	// The database is the console's, which is the all-in-one process in that shape.
	owner := "console"
	if p.shape == together {
		owner = "up"
	}
	if err := os.MkdirAll(p.dataDir(owner), 0o755); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(p.t.Context(), filepath.Join(binaries, "callstream"), args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "CALLSTREAM_DATA_DIR=" + p.dataDir(owner)}, p.env...)
	if api := p.base(http.MethodGet, "/"); api != "" {
		cmd.Env = append(cmd.Env, "CALLSTREAM_API_URL="+api)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("callstream %s: %w\n%s%s", strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// tenant makes an admin key for a tenant of this name and waits until the producer knows it. Tests keep apart by tenant.
func (p *pipeline) tenant(name string) tenant {
	p.t.Helper()
	p.mu.Lock()
	key, ok := p.keys[name]
	p.mu.Unlock()
	if !ok {
		var created struct {
			Key string `json:"key"`
		}
		out := p.callstream("keys", "create", "--admin", "--tenant", name, "--name", "suite", "--json")
		if err := json.Unmarshal(out, &created); err != nil || created.Key == "" {
			p.t.Fatalf("keys create printed no key: %v: %s", err, out)
		}
		key = created.Key
		p.mu.Lock()
		p.keys[name] = key
		p.mu.Unlock()
	}
	tn := tenant{p: p, name: name, key: key}
	eventually(p.t, "the producer knows the key of "+name, func() error {
		// A body that is no JSON is refused after the key was accepted, so nothing is produced by asking.
		r, err := tn.try(http.MethodPost, "/v1/events", "{", nil)
		if err != nil {
			return err
		}
		if r.status != http.StatusBadRequest {
			return errors.New(r.String())
		}
		return nil
	})
	return tn
}

// tenant is a caller of the API.
type tenant struct {
	p    *pipeline
	name string
	key  string
}

// try sends a request with the tenant's key. The body may be a string, bytes or a value to encode as JSON.
func (tn tenant) try(method, path string, body any, header http.Header) (reply, error) {
	h := http.Header{"Authorization": {"Bearer " + tn.key}}
	var reader io.Reader
	if body != nil {
		h.Set("Content-Type", "application/json")
		switch b := body.(type) {
		case string:
			reader = strings.NewReader(b)
		case []byte:
			reader = bytes.NewReader(b)
		default:
			raw, err := json.Marshal(b)
			if err != nil {
				return reply{}, err
			}
			reader = bytes.NewReader(raw)
		}
	}
	if method == http.MethodPatch {
		h.Set("Content-Type", "application/merge-patch+json")
	}
	for k, v := range header {
		h[k] = v
	}
	return request(context.WithoutCancel(tn.p.t.Context()), method, tn.p.base(method, path)+path, h, reader)
}

// do is try for requests that must reach the service.
func (tn tenant) do(method, path string, body any) reply {
	tn.p.t.Helper()
	r, err := tn.try(method, path, body, nil)
	if err != nil {
		tn.p.t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

// must is do that expects one status.
func (tn tenant) must(status int, method, path string, body any) reply {
	tn.p.t.Helper()
	r := tn.do(method, path, body)
	if r.status != status {
		tn.p.t.Fatalf("%s %s: want %d, got %s", method, path, status, r)
	}
	return r
}

// accepted is the answer to POST /v1/events.
type accepted struct {
	Accepted int      `json:"accepted"`
	IDs      []string `json:"ids"`
}

// post sends events that must be accepted, and returns their ids.
func (tn tenant) post(body any) []string {
	tn.p.t.Helper()
	a := decode[accepted](tn.p.t, tn.must(http.StatusAccepted, http.MethodPost, "/v1/events", body))
	if a.Accepted != len(a.IDs) {
		tn.p.t.Fatalf("accepted %d, but named %d ids", a.Accepted, len(a.IDs))
	}
	return a.IDs
}

// created is a subscription as creating it shows it.
type created struct {
	ID      string `json:"id"`
	State   string `json:"state"`
	Secret  string `json:"secret"`
	Version int64  `json:"version"`
}

// object is a JSON object, for request bodies.
type object map[string]any

// subscribe creates a subscription that is verified by its challenge, and so active.
func (tn tenant) subscribe(spec object) created {
	tn.p.t.Helper()
	c := decode[created](tn.p.t, tn.must(http.StatusCreated, http.MethodPost, "/v1/subscriptions", spec))
	if c.Secret == "" {
		tn.p.t.Fatal("creating a subscription showed no secret")
	}
	v := decode[created](tn.p.t, tn.must(http.StatusOK, http.MethodPost, "/v1/subscriptions/"+c.ID+"/verify", nil))
	if v.State != "active" {
		tn.p.t.Fatalf("after verification the subscription is %q", v.State)
	}
	tn.inForce()
	return c
}

// inForce waits until a change that was answered is in force: at once in one process, within a second apart (the feed).
// Apart there is nothing to ask but the services' own metrics, so it compares the offset they say they have applied
// with the feed's end.
func (tn tenant) inForce() {
	tn.p.t.Helper()
	if tn.p.shape == together {
		return
	}
	tn.p.awaitFeed()
}
