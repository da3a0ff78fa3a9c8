//go:build chaos

package chaos

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/embedded"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/test/process"
	"github.com/stretchr/testify/require"
)

const partitions = 4

// world is a callstream of separate processes with its ledger.
type world struct {
	t        *testing.T
	dir      string
	logs     string // not where a disk is full
	together bool   // one process: up
	brokers  []string
	registry *embedded.Embedded
	via      map[string][]string // brokers of a process that goes another way
	*ledger

	mu        sync.Mutex
	processes map[string]*process.Process
	addresses map[string]process.Addresses
}

// seeded makes a test's random choices repeatable.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed, err := strconv.ParseUint(os.Getenv("CALLSTREAM_CHAOS_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("CALLSTREAM_CHAOS_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// rounds is how often a fault happens: CALLSTREAM_CHAOS_ROUNDS, or otherwise.
func rounds(t *testing.T, otherwise int) int {
	t.Helper()
	text := os.Getenv("CALLSTREAM_CHAOS_ROUNDS")
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, "CALLSTREAM_CHAOS_ROUNDS")
	require.Positive(t, n)
	return n
}

// newWorld starts the services on the cluster, with subscriptions for every endpoint of the ledger. via are the brokers of
// those that go another way, by name.
func newWorld(t *testing.T, via map[string][]string, dispatchers int) *world {
	t.Helper()
	a := emptyCluster(t)
	w := &world{t: t, dir: t.TempDir(), logs: t.TempDir(), brokers: a.Brokers, via: via, processes: map[string]*process.Process{}, addresses: map[string]process.Addresses{}}
	w.startRegistry("")
	w.run("callstream", "topics", "apply")
	w.ledger = newLedger(t, a.Brokers, w.registry.RegistryURL())
	names := []string{"console", "producer", "filter"}
	for i := range dispatchers {
		names = append(names, fmt.Sprintf("dispatcher-%d", i))
	}
	for _, name := range names {
		w.launch(name)
	}
	for _, name := range names {
		w.ready(name)
	}
	w.subscribeAll()
	return w
}

// subscribeAll makes the subscriptions, and waits until they are in force.
func (w *world) subscribeAll() {
	w.t.Helper()
	for _, path := range endpoints {
		w.subscribe(path)
	}
	w.probe()
}

// newUp starts callstream up with its data in dir: everything in one process, with the embedded broker.
func newUp(t *testing.T, dir string) *world {
	t.Helper()
	w := &world{t: t, dir: dir, logs: t.TempDir(), together: true, processes: map[string]*process.Process{}, addresses: map[string]process.Addresses{}}
	w.launch(up)
	w.ready(up)
	a := w.addresses[up]
	w.ledger = newLedger(t, []string{a.Kafka}, "http://"+a.SchemaRegistry)
	w.subscribeAll()
	return w
}

// up is the name of the one process of newUp.
const up = "callstream"

// startRegistry starts the schema registry, on the same address and data as before where there is one.
func (w *world) startRegistry(addr string) {
	w.t.Helper()
	var err error
	w.registry, err = embedded.StartRegistry(w.t.Context(), embedded.Config{DataDir: filepath.Join(w.dir, "registry"), RegistryAddr: addr, Compatible: event.Compatible})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = w.registry.Close() })
}

func (w *world) env(name string) []string {
	common := []string{
		"CALLSTREAM_HTTP_ADDR=127.0.0.1:0", "CALLSTREAM_LOG_LEVEL=warn", "CALLSTREAM_AUTH=off", "CALLSTREAM_ALLOW_PRIVATE_ENDPOINTS=true", "CALLSTREAM_ALLOW_HTTP_ENDPOINTS=true",
		"CALLSTREAM_RETRY_SCHEDULE=500ms,1s,2s,5s,5s,5s,5s,5s", "CALLSTREAM_PARTITIONS=" + strconv.Itoa(partitions),
		"CALLSTREAM_ENCRYPTION_KEY=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
	}
	if w.together {
		// The same addresses when it is started again: the ledger reads on.
		kafka, registry := "127.0.0.1:0", "127.0.0.1:0"
		if a, ok := w.addresses[up]; ok {
			kafka, registry = a.Kafka, a.SchemaRegistry
		}
		return append(common, "CALLSTREAM_KAFKA_ADDR="+kafka, "CALLSTREAM_SCHEMA_REGISTRY_ADDR="+registry)
	}
	brokers := w.brokers
	if other, ok := w.via[name]; ok {
		brokers = other
	}
	return append(common, "CALLSTREAM_KAFKA_BROKERS="+strings.Join(brokers, ","), "CALLSTREAM_SCHEMA_REGISTRY_URL="+w.registry.RegistryURL())
}

// run runs a program to its end.
func (w *world) run(binary string, args ...string) {
	w.t.Helper()
	p, err := process.Start(process.Options{Binary: filepath.Join(built.bin, binary), Args: args, Env: w.env(binary), Dir: filepath.Join(w.dir, "run")})
	require.NoError(w.t, err)
	select {
	case <-p.Ended():
		require.NoError(w.t, p.Terminate(w.t.Context()), "%s %s:\n%s", binary, strings.Join(args, " "), p.Log())
	case <-time.After(patience):
		p.Kill()
		w.t.Fatalf("%s %v does not end:\n%s", binary, args, p.Log())
	}
}

// launch starts a process, or starts it again on the same data.
func (w *world) launch(name string) {
	w.t.Helper()
	binary, _, _ := strings.Cut(name, "-")
	var args []string
	if name == up {
		args = []string{"up"}
	}
	p, err := process.Start(process.Options{
		Binary: filepath.Join(built.bin, binary), Args: args, Env: w.env(name), Dir: filepath.Join(w.dir, name), Log: filepath.Join(w.logs, name+".log"),
	})
	require.NoError(w.t, err)
	w.mu.Lock()
	w.processes[name] = p
	w.mu.Unlock()
	w.t.Cleanup(func() {
		p.Kill()
		if w.t.Failed() {
			w.t.Logf("--- log of %s:\n%s", name, p.Log())
		}
	})
}

// ready waits until a process is.
func (w *world) ready(name string) {
	w.t.Helper()
	var a process.Addresses
	eventually(w.t, name+" is ready", func() (err error) {
		a, err = w.process(name).Ready(w.t.Context())
		return err
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addresses[name] = a
}

func (w *world) process(name string) *process.Process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.processes[name]
}

// url is where a process listened when it was ready last.
func (w *world) url(name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.together {
		name = up
	}
	return "http://" + w.addresses[name].HTTP
}

func (w *world) producer() string { return w.url("producer") }

// kill ends a process as a power cut would, and starts it again.
func (w *world) kill(name string) {
	w.t.Helper()
	w.process(name).Kill()
	w.launch(name)
	w.ready(name)
}

var client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

// send posts JSON and returns the answer's status and body.
func (w *world) send(url string, body any) (int, []byte, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, url, bytes.NewReader(raw))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	return res.StatusCode, answer, err
}

// subscribe makes and verifies the subscription of an endpoint.
func (w *world) subscribe(path string) {
	w.t.Helper()
	spec := map[string]any{"url": w.hook.URL() + path, "events": []string{"call.ended"}}
	if path == "/half" {
		spec["filter"] = "event.data.disposition == 'qualified'"
	}
	var created struct{ ID, Secret string }
	status, body, err := w.send(w.url("console")+"/v1/subscriptions", spec)
	require.NoError(w.t, err)
	require.Equal(w.t, http.StatusCreated, status, "%s", body)
	require.NoError(w.t, json.Unmarshal(body, &created))
	status, body, err = w.send(w.url("console")+"/v1/subscriptions/"+created.ID+"/verify", map[string]any{})
	require.NoError(w.t, err)
	require.Equal(w.t, http.StatusOK, status, "%s", body)
	w.ledger.mu.Lock()
	w.subscriptions[path] = created.ID
	w.secrets = append(w.secrets, created.Secret)
	w.hook.SetSecrets(w.secrets...)
	w.ledger.mu.Unlock()
}

var errNotInForce = errors.New("an event has not come to every endpoint")

// probe posts events until one has come to every endpoint: apart, a subscription is in force some moments after the answer.
func (w *world) probe() {
	w.t.Helper()
	n := 0
	eventually(w.t, "the subscriptions are in force", func() error {
		// One that /picky takes, /flaky takes at once, and /half gets.
		id := ""
		for id == "" || hashed(id)%10 == 0 || hashed(id)%3 == 0 || hashed(id)%2 != 0 {
			id, n = fmt.Sprintf("probe-%d", n), n+1
		}
		e := map[string]any{"id": id, "type": "call.ended", "call_id": id, "data": map[string]any{"disposition": "qualified"}}
		if status, body, err := w.send(w.producer()+"/v1/events", e); err != nil || status != http.StatusAccepted {
			return fmt.Errorf("%d %s: %w", status, body, errors.Join(err, errNotInForce))
		}
		deadline := time.Now().Add(2 * time.Second)
		for time.Now().Before(deadline) {
			paths := map[string]bool{}
			for _, r := range w.hook.Requests() {
				if r.Header.Get("X-Event-Id") == id {
					paths[r.Path] = true
				}
			}
			if len(paths) == len(endpoints) {
				return nil
			}
			time.Sleep(10 * time.Millisecond)
		}
		return errNotInForce
	})
}

// flowing posts events from some workers; the function returned ends it and waits for every 202.
func (w *world) flowing(workers int) (stop func()) {
	end := make(chan struct{})
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() { w.flow(w, fmt.Sprintf("e%d", i), end) })
	}
	return sync.OnceFunc(func() { close(end); all.Wait() })
}

// progress waits until so many more events have been accepted and delivered to the endpoint that takes everything.
func (w *world) progress(what string, more int) {
	w.t.Helper()
	accepted, arrived := w.count(), w.hook.Unique()
	eventually(w.t, what, func() error {
		if a, d := w.count()-accepted, w.hook.Unique()-arrived; a < more || d < more {
			return fmt.Errorf("%d events accepted and %d deliveries made since, of %d", a, d, more)
		}
		return nil
	})
}
