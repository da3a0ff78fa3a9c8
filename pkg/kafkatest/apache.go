package kafkatest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ErrMissing means that a program that Apache Kafka needs is not installed. The message says which, and how to get it.
var ErrMissing = errors.New("Apache Kafka can't be started")

// Apache is a cluster of Apache Kafka brokers on this machine, in KRaft mode, each broker its own controller, on free
// ports of 127.0.0.1.
type Apache struct {
	Brokers []string // their addresses, by index
	// Detours are second ways to the brokers, by index, for proxies that a test puts between a client and the cluster: a
	// client that bootstraps from their Via addresses is sent to these by every broker.
	Detours []Detour

	dir   string
	java  string
	jars  string
	nodes []*node
}

// Detour is where a broker tells clients of its second listener to connect, and where that listener is. Nobody listens on
// Via until a test does.
type Detour struct{ Via, Upstream string }

type node struct {
	id     int
	dir    string
	broker int // ports
	ctrl   int
	detour int
	via    int

	mu   sync.Mutex
	proc *process
}

// process is a running broker. It ends with this process: see spawn.
type process struct {
	pid   int
	ended chan struct{}
}

// StartApache starts n brokers that keep their data and logs under dir, and waits until all of them answer. The jars are
// had from Maven once and kept in the user's cache directory. Stop must be called, but a test process that dies takes its
// brokers with it.
func StartApache(ctx context.Context, n int, dir string) (*Apache, error) {
	java, err := javaPath()
	if err != nil {
		return nil, err
	}
	jars, err := fetchJars(ctx)
	if err != nil {
		return nil, err
	}
	a := &Apache{dir: dir, java: java, jars: jars}
	const each = 4
	ports, err := freePorts(ctx, each*n)
	if err != nil {
		return nil, err
	}
	for i := range n {
		p := ports[each*i:]
		a.nodes = append(a.nodes, &node{id: i + 1, dir: filepath.Join(dir, fmt.Sprintf("node-%d", i+1)), broker: p[0], ctrl: p[1], detour: p[2], via: p[3]})
		a.Brokers = append(a.Brokers, loopback(p[0]))
		a.Detours = append(a.Detours, Detour{Via: loopback(p[3]), Upstream: loopback(p[2])})
	}
	for i := range n {
		if err := a.format(ctx, a.nodes[i]); err != nil {
			return nil, err
		}
	}
	for i := range n {
		if err := a.start(a.nodes[i]); err != nil {
			a.Stop()
			return nil, err
		}
	}
	if err := a.waitReady(ctx, n); err != nil {
		a.Stop()
		return nil, err
	}
	return a, nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func javaPath() (string, error) {
	if home := os.Getenv("JAVA_HOME"); home != "" {
		return filepath.Join(home, "bin", "java"), nil
	}
	java, err := exec.LookPath("java")
	if err != nil {
		return "", fmt.Errorf("%w: there is no java: install a JDK or JRE, 17 or later (Debian: apt-get install openjdk-17-jre-headless; macOS: brew install openjdk), "+
			"or name a running cluster in CALLSTREAM_KAFKA_BROKERS", ErrMissing)
	}
	return java, nil
}

// pomPath finds test/kafka/pom.xml from wherever in the repository the tests run.
func pomPath() (string, error) {
	if p := os.Getenv("CALLSTREAM_TEST_KAFKA_POM"); p != "" {
		return p, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find test/kafka/pom.xml: %w", err)
	}
	for {
		p := filepath.Join(dir, "test", "kafka", "pom.xml")
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("%w: no test/kafka/pom.xml above the working directory: set CALLSTREAM_TEST_KAFKA_POM to it", ErrMissing)
		}
		dir = up
	}
}

// fetchJars has Maven put Kafka's jars into a cache directory, once for each version of the pom.
func fetchJars(ctx context.Context) (string, error) {
	pom, err := pomPath()
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(pom)
	if err != nil {
		return "", fmt.Errorf("read the pom: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache directory for Kafka's jars: %w", err)
	}
	sum := sha256.Sum256(text)
	jars := filepath.Join(cache, "callstream", "kafka-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(jars); err == nil {
		return jars, nil
	}
	if err := os.MkdirAll(filepath.Dir(jars), 0o755); err != nil {
		return "", fmt.Errorf("make a cache directory for Kafka's jars: %w", err)
	}
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return "", fmt.Errorf("%w: there is no mvn to get its jars with: install Maven (Debian: apt-get install maven; macOS: brew install maven), "+
			"or name a running cluster in CALLSTREAM_KAFKA_BROKERS", ErrMissing)
	}
	// Several test processes may do this at once; whoever is first to rename wins, and a half-filled directory is never seen.
	part, err := os.MkdirTemp(filepath.Dir(jars), "part-")
	if err != nil {
		return "", fmt.Errorf("make a cache directory for Kafka's jars: %w", err)
	}
	defer func() { _ = os.RemoveAll(part) }()
	cmd := exec.CommandContext(ctx, mvn, "-B", "-q", "-f", pom, "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+part)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: Maven could not get its jars (%w):\n%s", ErrMissing, err, out)
	}
	if err := os.Rename(part, jars); err != nil && !errors.Is(err, os.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return "", fmt.Errorf("keep Kafka's jars: %w", err)
	}
	return jars, nil
}

// freePorts finds ports that nobody listens on. All are held until all are found, so that they differ.
func freePorts(ctx context.Context, n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer func() { _ = l.Close() }()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

func (a *Apache) properties(n *node) string {
	replicas := min(3, len(a.nodes))
	voters := make([]string, len(a.nodes))
	for i, v := range a.nodes {
		voters[i] = fmt.Sprintf("%d@127.0.0.1:%d", v.id, v.ctrl)
	}
	return strings.Join([]string{
		"process.roles=broker,controller",
		fmt.Sprintf("node.id=%d", n.id),
		"controller.quorum.voters=" + strings.Join(voters, ","),
		fmt.Sprintf("listeners=BROKER://127.0.0.1:%d,DETOUR://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d", n.broker, n.detour, n.ctrl),
		fmt.Sprintf("advertised.listeners=BROKER://127.0.0.1:%d,DETOUR://127.0.0.1:%d", n.broker, n.via),
		"listener.security.protocol.map=BROKER:PLAINTEXT,DETOUR:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"inter.broker.listener.name=BROKER",
		"controller.listener.names=CONTROLLER",
		"log.dirs=" + filepath.Join(n.dir, "data"),
		// Topics are declared: one that a typo creates would hide the mistake.
		"auto.create.topics.enable=false",
		fmt.Sprintf("default.replication.factor=%d", replicas),
		fmt.Sprintf("min.insync.replicas=%d", max(1, replicas-1)),
		fmt.Sprintf("offsets.topic.replication.factor=%d", replicas),
		"offsets.topic.num.partitions=4",
		fmt.Sprintf("transaction.state.log.replication.factor=%d", replicas),
		fmt.Sprintf("transaction.state.log.min.isr=%d", max(1, replicas-1)),
		"transaction.state.log.num.partitions=4",
		fmt.Sprintf("share.coordinator.state.topic.replication.factor=%d", replicas),
		fmt.Sprintf("share.coordinator.state.topic.min.isr=%d", max(1, replicas-1)),
		"group.initial.rebalance.delay.ms=0",
		// A dead broker is to be noticed within a test's patience.
		"broker.session.timeout.ms=6000",
		"broker.heartbeat.interval.ms=1000",
		"replica.lag.time.max.ms=5000",
		// A small machine's worth of threads and buffers.
		"num.network.threads=2", "num.io.threads=4", "background.threads=2", "num.recovery.threads.per.data.dir=1",
		"log.cleaner.threads=1", "log.cleaner.dedupe.buffer.size=4194304", "log.cleaner.backoff.ms=5000",
		"log.segment.bytes=67108864", "log.index.size.max.bytes=1048576", "offsets.topic.segment.bytes=16777216",
		"metadata.log.segment.bytes=16777216",
	}, "\n") + "\n"
}

// clusterID is any 16 bytes in base64: each cluster has its own directory.
const clusterID = "Y2FsbHN0cmVhbXRlc3Q0NA"

func (a *Apache) format(ctx context.Context, n *node) error {
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return fmt.Errorf("make a broker's directory: %w", err)
	}
	conf := filepath.Join(n.dir, "server.properties")
	if err := os.WriteFile(conf, []byte(a.properties(n)), 0o600); err != nil {
		return fmt.Errorf("write a broker's settings: %w", err)
	}
	cmd := exec.CommandContext(ctx, a.java, append(a.jvm(), "kafka.tools.StorageTool", "format", "-t", clusterID, "-c", conf)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: format the directory of broker %d (%w):\n%s", ErrMissing, n.id, err, out)
	}
	return nil
}

// jvm are options for a small heap and a quick start: the compiler that optimizes most costs a start more than a test
// gets back.
func (a *Apache) jvm() []string {
	return []string{"-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xshare:auto",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true",
		"-cp", filepath.Join(a.jars, "*")}
}

func (a *Apache) start(n *node) error {
	log, err := os.OpenFile(filepath.Join(n.dir, "kafka.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open a broker's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	// It outlives the context that it is started under: Kill ends it.
	cmd := exec.CommandContext(context.Background(), a.java, append(a.jvm(), "kafka.Kafka", filepath.Join(n.dir, "server.properties"))...)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := spawn(cmd)
	if err != nil {
		return fmt.Errorf("start broker %d: %w", n.id, err)
	}
	n.mu.Lock()
	n.proc = p
	n.mu.Unlock()
	return nil
}

// spawn starts a process that the system kills when this one dies. Where it can (Linux), it does so when the thread that
// started it ends; so that thread is kept until the process has ended.
func spawn(cmd *exec.Cmd) (*process, error) {
	dieWithParent(cmd)
	started := make(chan error, 1)
	p := &process{ended: make(chan struct{})}
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.ended)
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // killed, as a rule
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// waitReady waits until n brokers are there and agree on it.
func (a *Apache) waitReady(ctx context.Context, n int) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(a.Brokers...), kgo.DisableClientMetrics(), kgo.MetadataMinAge(100*time.Millisecond))
	if err != nil {
		return fmt.Errorf("wait for Kafka: %w", err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		try, stop := context.WithTimeout(ctx, 2*time.Second)
		brokers, err := kadm.NewClient(client).ListBrokers(try)
		stop()
		if err == nil && len(brokers) >= n {
			return nil
		}
		if err != nil {
			last = err
		}
		for _, nd := range a.nodes {
			nd.mu.Lock()
			p := nd.proc
			nd.mu.Unlock()
			if p == nil {
				continue
			}
			select {
			case <-p.ended:
				return fmt.Errorf("broker %d ended while it started:\n%s", nd.id, tail(filepath.Join(nd.dir, "kafka.log")))
			default:
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for Kafka at %s: %w\n%s", strings.Join(a.Brokers, ", "), errors.Join(ctx.Err(), last), tail(filepath.Join(a.nodes[0].dir, "kafka.log")))
		case <-tick.C:
		}
	}
}

func tail(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return string(b[max(0, len(b)-4000):])
}

// Pid is the process id of broker i (from 0), 0 when it is down.
func (a *Apache) Pid(i int) int {
	n := a.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc == nil {
		return 0
	}
	return n.proc.pid
}

// Kill ends broker i (from 0) as a power cut would, but for the system's file cache.
func (a *Apache) Kill(i int) { a.end(i, syscall.SIGKILL) }

// Terminate ends broker i (from 0) in good order: it hands its partitions over first.
func (a *Apache) Terminate(i int) { a.end(i, syscall.SIGTERM) }

func (a *Apache) end(i int, with syscall.Signal) {
	n := a.nodes[i]
	n.mu.Lock()
	p := n.proc
	n.proc = nil
	n.mu.Unlock()
	if p == nil {
		return
	}
	_ = syscall.Kill(p.pid, with)
	<-p.ended
}

// Restart starts broker i again on its data, and waits until all brokers that run are in the cluster.
func (a *Apache) Restart(ctx context.Context, i int) error {
	if err := a.start(a.nodes[i]); err != nil {
		return err
	}
	up := 0
	for j := range a.nodes {
		if a.Pid(j) != 0 {
			up++
		}
	}
	return a.waitReady(ctx, up)
}

// Stop ends all brokers. Their data stays where it is.
func (a *Apache) Stop() {
	for i := range a.nodes {
		a.Kill(i)
	}
}
