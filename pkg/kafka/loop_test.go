package kafka

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
)

// bed is a broker and what talks to it. newBed's is on a virtual network inside a synctest bubble, where time passes only
// when everything waits. The client's own locks don't count as waiting there, and it holds one while members join; so
// tests in which several members join while they commit have a wire, a real network in real time.
type bed struct {
	t        *testing.T
	patience time.Duration
	cluster  *kfake.Cluster
	cfg      Config
	dial     kgo.Opt
	dialFn   func(context.Context, string, string) (net.Conn, error)
	group    []kgo.Opt // for members, besides
	client   *kgo.Client
	log      *zap.Logger
	apart    func(string) bool // for members
}

// eachReader runs a test in a bubble for both ways of reading: by the group's client, and by one apart.
func eachReader(t *testing.T, test func(t *testing.T, apart func(string) bool)) {
	t.Helper()
	for name, apart := range map[string]func(string) bool{"grouped": nil, "apart": func(string) bool { return true }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { test(t, apart) })
		})
	}
}

func newBed(t *testing.T, opts ...kfake.Opt) *bed {
	vnet := new(kfake.VirtualNetwork)
	b := &bed{t: t, patience: 10 * time.Minute, dialFn: dialer(vnet)}
	b.dial = kgo.Dialer(b.dialFn)
	b.start(append([]kfake.Opt{kfake.NumBrokers(1), kfake.Ports(9092), kfake.ListenFn(vnet.Listen)}, opts...)...)
	return b
}

func newWire(t *testing.T, opts ...kfake.Opt) *bed {
	b := &bed{t: t, patience: time.Minute, dialFn: (&net.Dialer{}).DialContext, dial: kgo.DialTimeout(time.Second), group: []kgo.Opt{kgo.HeartbeatInterval(200 * time.Millisecond), kgo.SessionTimeout(2 * time.Second), kgo.RebalanceTimeout(3 * time.Second)}}
	b.start(append([]kfake.Opt{kfake.GroupMinSessionTimeout(time.Second)}, opts...)...)
	return b
}

func (b *bed) start(opts ...kfake.Opt) {
	t := b.t
	b.log = zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))
	var err error
	b.cluster, err = kfake.NewCluster(opts...)
	require.NoError(t, err)
	b.cfg = Config{Brokers: b.cluster.ListenAddrs()}
	b.client, err = kgo.NewClient(kgo.SeedBrokers(b.cfg.Brokers...), b.dial, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableClientMetrics())
	require.NoError(t, err)
	t.Cleanup(func() {
		b.client.Close()
		b.cluster.Close()
	})
}

// dialer fails as a real network does, which the client tells from other errors.
func dialer(vnet *kfake.VirtualNetwork) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := vnet.DialContext(ctx, network, addr)
		if err != nil {
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		}
		return conn, nil
	}
}

// produce appends n records to a partition, numbered by value from where it ends.
func (b *bed) produce(topic string, partition int32, n int) {
	b.t.Helper()
	start := b.cluster.PartitionInfo(topic, partition).HighWatermark
	var rs []*kgo.Record
	for i := range n {
		rs = append(rs, &kgo.Record{Topic: topic, Partition: partition, Value: []byte(strconv.FormatInt(start+int64(i), 10))})
	}
	require.NoError(b.t, b.client.ProduceSync(b.t.Context(), rs...).FirstErr())
}

// member is one loop of a group, with what it was handed.
type member struct {
	*Loop
	b    *bed
	stop context.CancelFunc
	end  chan error
	wire wire

	mu     sync.Mutex
	tasks  []*Task
	got    map[TopicPartition][]int64
	losses []Loss
	lost   []TopicPartition
}

func (b *bed) member(change func(*LoopConfig, *member)) *member {
	b.t.Helper()
	m := &member{b: b, end: make(chan error, 1), got: make(map[TopicPartition][]int64), wire: wire{to: b.dialFn}}
	cfg := LoopConfig{Config: b.cfg, Log: b.log, Group: "g", Topics: []string{"t"}, Apart: b.apart, Options: append([]kgo.Opt{kgo.Dialer(m.wire.dial)}, b.group...),
		Handle:      func(_ context.Context, t *Task) { m.add(t) },
		LostRecords: func(l Loss) { m.mu.Lock(); defer m.mu.Unlock(); m.losses = append(m.losses, l) },
		Lost:        func(tp TopicPartition) { m.mu.Lock(); defer m.mu.Unlock(); m.lost = append(m.lost, tp) },
	}
	if change != nil {
		change(&cfg, m)
	}
	l, err := NewLoop(cfg)
	require.NoError(b.t, err)
	m.Loop = l
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	go func() {
		m.end <- l.Run(ctx)
		close(m.end)
	}()
	b.t.Cleanup(func() { // a failed test must not leave it running
		cancel()
		for range m.end { // until Run has returned
		}
	})
	return m
}

// add notes a task that was handed out.
func (m *member) add(t *Task) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tasks = append(m.tasks, t)
	tp := TopicPartition{t.Record.Topic, t.Record.Partition}
	m.got[tp] = append(m.got[tp], t.Record.Offset)
}

func (m *member) offsets(topic string, p int32) []int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.got[TopicPartition{topic, p}])
}

// task is the newest one of an offset.
func (m *member) task(offset int64) *Task {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := len(m.tasks) - 1; i >= 0; i-- {
		if m.tasks[i].Record.Offset == offset {
			return m.tasks[i]
		}
	}
	return nil
}

// until waits for a condition; in a bubble, that is in no time.
func (b *bed) until(what string, cond func() bool) {
	b.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(b.patience); !cond(); <-tick.C {
		if time.Now().After(end) {
			b.t.Fatalf("it never happened: %s", what)
		}
	}
}

func (m *member) leave() {
	m.b.t.Helper()
	m.stop()
	assert.NoError(m.b.t, <-m.end)
}

// crash ends a member as a kill would: from now on nothing of it reaches the broker. What is left of it ends in its time.
func (m *member) crash() {
	m.wire.cut()
	m.stop()
}

// wire is a member's network.
type wire struct {
	to func(context.Context, string, string) (net.Conn, error)

	mu    sync.Mutex
	conns []net.Conn
	down  bool
}

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := w.to(ctx, network, addr)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && w.down {
		_ = conn.Close()
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ENETUNREACH}
	}
	w.conns = append(w.conns, conn)
	return conn, err
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = true
	for _, c := range w.conns {
		if c != nil {
			_ = c.Close()
		}
	}
}

func seq(from, to int64) []int64 {
	var s []int64
	for i := from; i < to; i++ {
		s = append(s, i)
	}
	return s
}

func (b *bed) committed(topic string, p int32) kfake.GroupCommit {
	info := b.cluster.GroupInfo("g")
	if info == nil {
		return kfake.GroupCommit{Offset: -1}
	}
	c, ok := info.Commits[topic][p]
	if !ok {
		return kfake.GroupCommit{Offset: -1}
	}
	return c
}

func TestLoopRepeatsOnlyWhatIsIncomplete(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, apart func(string) bool) {
		b := newBed(t, kfake.SeedTopics(1, "t"))
		b.apart = apart
		b.produce("t", 0, 20)
		m := b.member(nil)
		b.until("all are handed out", func() bool { return len(m.offsets("t", 0)) == 20 })
		require.NoError(t, m.Ready())
		require.Equal(t, seq(0, 20), m.offsets("t", 0))
		for _, o := range []int64{0, 1, 4, 3, 9, 19} {
			m.task(o).Done()
		}
		b.until("the commit", func() bool { return b.committed("t", 0).Offset == 2 && b.committed("t", 0).Metadata != "" })
		// Completed after the last commit: a crash repeats it.
		m.task(2).Done()
		m.crash()
		require.EqualValues(t, 2, b.committed("t", 0).Offset)

		var told Assignment
		again := b.member(func(c *LoopConfig, _ *member) {
			c.Assigned = func(_ context.Context, a Assignment) error { told = a; return nil }
		})
		b.until("the rest is handed out", func() bool { return len(again.offsets("t", 0)) == 14 })
		time.Sleep(time.Minute)
		require.Equal(t, []int64{2, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18}, again.offsets("t", 0))
		require.EqualValues(t, 2, told.Committed)
		for o := range int64(25) {
			require.Equal(t, o < 20 && !slices.Contains(again.offsets("t", 0), o), told.Done(o), "offset %d", o)
		}
		again.leave()
	})
}

func TestLoopCommitsOnDrain(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, apart func(string) bool) {
		b := newBed(t, kfake.SeedTopics(1, "t"))
		b.apart = apart
		b.produce("t", 0, 3)
		m := b.member(func(c *LoopConfig, _ *member) { c.CommitEvery = time.Hour })
		b.until("all are handed out", func() bool { return len(m.offsets("t", 0)) == 3 })
		m.stop()
		began := time.Now()
		<-m.task(0).Stopping()
		require.NoError(t, m.task(0).Context().Err(), "work in hand goes on")
		for o := range int64(3) {
			time.Sleep(3 * time.Second)
			m.task(o).Done()
		}
		require.NoError(t, <-m.end)
		require.Less(t, time.Since(began), 10*time.Second)
		require.Error(t, m.task(0).Context().Err())
		require.EqualValues(t, 3, b.committed("t", 0).Offset)
		require.Empty(t, b.committed("t", 0).Metadata)
		require.Equal(t, []TopicPartition{{"t", 0}}, m.lost)

		// Late, or said twice: no more than a no-op.
		m.task(0).Done()
		m.task(0).Abandon()
	})
}

func TestLoopDrainIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, kfake.SeedTopics(1, "t"))
		b.produce("t", 0, 3)
		m := b.member(nil)
		b.until("all are handed out", func() bool { return len(m.offsets("t", 0)) == 3 })
		m.task(1).Done()
		began := time.Now()
		m.leave()
		require.InDelta(t, 20, time.Since(began).Seconds(), 2)
		require.EqualValues(t, 0, b.committed("t", 0).Offset)

		again := b.member(nil)
		b.until("the rest", func() bool { return len(again.offsets("t", 0)) == 2 })
		require.Equal(t, []int64{0, 2}, again.offsets("t", 0))
		// Given back: nobody waits for them.
		again.task(0).Abandon()
		again.task(2).Abandon()
		began = time.Now()
		again.leave()
		require.Less(t, time.Since(began), 2*time.Second)
	})
}

func TestLoopDefers(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, apart func(string) bool) {
		b := newBed(t, kfake.SeedTopics(1, "t"))
		b.apart = apart
		b.produce("t", 0, 500)
		type handed struct {
			offset int64
			at     time.Duration
		}
		var mu sync.Mutex
		var order []handed
		began := time.Now()
		due := map[int64]time.Duration{3: 500 * time.Millisecond, 7: 2 * time.Hour, 8: 2*time.Hour + 100*time.Millisecond, 100: 3 * time.Hour}
		m := b.member(func(c *LoopConfig, _ *member) {
			c.Handle = func(_ context.Context, task *Task) {
				if d := due[task.Record.Offset]; time.Since(began) < d {
					task.Defer(began.Add(d))
					return
				}
				mu.Lock()
				order = append(order, handed{task.Record.Offset, time.Since(began)})
				mu.Unlock()
				task.Done()
			}
		})
		count := func() int { mu.Lock(); defer mu.Unlock(); return len(order) }
		time.Sleep(time.Minute)
		require.Equal(t, 7, count(), "nothing behind a record that is not due is handed out")
		p := m.parts[TopicPartition{"t", 0}]
		p.mu.Lock()
		require.Empty(t, p.queue, "a long wait holds no records")
		p.mu.Unlock()
		require.NoError(t, m.Ready())
		require.EqualValues(t, 7, b.committed("t", 0).Offset)
		// Records that come while it waits stay in order behind it.
		b.produce("t", 0, 100)
		time.Sleep(4 * time.Hour)
		require.Equal(t, 600, count())
		for i, h := range order {
			require.EqualValues(t, i, h.offset)
			require.GreaterOrEqual(t, h.at, due[h.offset])
			if d := due[h.offset]; d > 0 {
				require.Less(t, h.at, d+2*time.Second)
			}
		}
		m.leave()
		require.EqualValues(t, 600, b.committed("t", 0).Offset)
	})
}

// A partition that is taken away while it waits is taken over, and one that comes back is not paused for ever.
func TestLoopDeferAcrossRebalance(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, apart func(string) bool) {
		b := newBed(t, kfake.SeedTopics(2, "t"))
		b.apart = apart
		b.produce("t", 0, 5)
		b.produce("t", 1, 5)
		began := time.Now()
		deferAll := func(c *LoopConfig, m *member) {
			c.Handle = func(_ context.Context, task *Task) {
				if time.Since(began) < time.Hour {
					task.Defer(began.Add(time.Hour))
					return
				}
				m.add(task)
				task.Done()
			}
		}
		m1 := b.member(deferAll)
		b.until("ready", func() bool { return m1.Ready() == nil })
		time.Sleep(time.Minute)
		m2 := b.member(deferAll)
		b.until("shared", func() bool { return len(m1.Assignment()) == 1 && len(m2.Assignment()) == 1 && m2.Ready() == nil })
		time.Sleep(time.Minute)
		m2.leave()
		b.until("all back", func() bool { return len(m1.Assignment()) == 2 && m1.Ready() == nil })
		time.Sleep(time.Hour)
		require.Equal(t, seq(0, 5), m1.offsets("t", 0))
		require.Equal(t, seq(0, 5), m1.offsets("t", 1))
		m1.leave()
	})
}

func TestLoopBackpressure(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, apart func(string) bool) {
		b := newBed(t, kfake.SeedTopics(2, "t"))
		b.apart = apart
		random := rand.NewChaCha8([32]byte{}) // what doesn't compress: fetches are bounded packed, queues are counted unpacked
		for range 20 {                        // 40 MB in all
			var rs []*kgo.Record
			for range 100 {
				value := make([]byte, 10<<10)
				_, _ = random.Read(value)
				rs = append(rs, &kgo.Record{Topic: "t", Partition: 0, Value: value}, &kgo.Record{Topic: "t", Partition: 1, Value: value})
			}
			require.NoError(t, b.client.ProduceSync(t.Context(), rs...).FirstErr())
		}
		gate := make(chan struct{})
		m := b.member(func(c *LoopConfig, m *member) {
			c.QueueBytes = 1 << 20
			c.Handle = func(ctx context.Context, task *Task) {
				if task.Record.Partition == 0 {
					select {
					case <-gate:
					case <-ctx.Done():
						return
					}
				}
				m.add(task)
				task.Done()
			}
		})
		b.until("the other partition is done", func() bool { return len(m.offsets("t", 1)) == 2000 })
		time.Sleep(time.Minute)
		p := m.parts[TopicPartition{"t", 0}]
		p.mu.Lock()
		queued := p.queueBytes
		p.mu.Unlock()
		require.Less(t, queued, int64(512<<10+2*partitionFetch), "fetching goes on although nothing is handed out")
		require.Positive(t, queued)
		require.Empty(t, m.offsets("t", 0))
		close(gate)
		b.until("the blocked one is done", func() bool { return len(m.offsets("t", 0)) == 2000 })
		require.Equal(t, seq(0, 2000), m.offsets("t", 0))
		require.Equal(t, seq(0, 2000), m.offsets("t", 1))
		m.leave()
	})
}

// One record that is never done lets the window fill, no further; then everything goes on.
func TestLoopWindowFull(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, apart func(string) bool) {
		b := newBed(t, kfake.SeedTopics(1, "t"))
		b.apart = apart
		b.produce("t", 0, 1000)
		m := b.member(func(c *LoopConfig, m *member) {
			c.Window.Offsets = 100
			c.Handle = func(_ context.Context, task *Task) {
				m.add(task)
				if task.Record.Offset != 50 {
					task.Done()
				}
			}
		})
		pressure := func() (found Pressure) {
			m.Pressure(func(p Pressure) { found = p })
			return found
		}
		b.until("the window is full", func() bool { p := pressure(); return p.Span == p.SpanLimit && p.Span > 0 })
		full := time.Now()
		time.Sleep(time.Minute)
		require.Equal(t, seq(0, 150), m.offsets("t", 0))
		require.EqualValues(t, 50, b.committed("t", 0).Offset)
		p := pressure()
		require.WithinDuration(t, full, p.Since, time.Second)
		p.Since = time.Time{}
		require.Equal(t, Pressure{TopicPartition: TopicPartition{"t", 0}, Watermark: 50, Span: 100, SpanLimit: 100,
			Bytes: recordSize(m.task(50).Record), BytesLimit: 32 << 20}, p)
		m.task(50).Done()
		b.until("the rest", func() bool { return len(m.offsets("t", 0)) == 1000 })
		require.Zero(t, pressure().Since, "nothing is in hand")
		m.leave()
		require.EqualValues(t, 1000, b.committed("t", 0).Offset)
	})
}

func TestLoopWindowBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, kfake.SeedTopics(1, "t"))
		var rs []*kgo.Record
		for range 30 {
			rs = append(rs, &kgo.Record{Topic: "t", Value: make([]byte, 1000)})
		}
		require.NoError(t, b.client.ProduceSync(t.Context(), rs...).FirstErr())
		m := b.member(func(c *LoopConfig, _ *member) { c.Window.Bytes = 10_000 })
		time.Sleep(time.Minute)
		require.Len(t, m.offsets("t", 0), 8)
		m.task(3).Done()
		b.until("one more", func() bool { return len(m.offsets("t", 0)) == 9 })
		for o := range int64(30) {
			b.until("the next", func() bool { return m.task(o) != nil })
			m.task(o).Done()
		}
		m.leave()
	})
}

// A member that joins and leaves under load: every record is done at least once, and what was done and committed is not
// handed out again.
func TestLoopRebalanceLosesNothing(t *testing.T) {
	t.Parallel()
	for name, balancer := range map[string]func() kgo.GroupBalancer{"cooperative": nil, "colocating": ColocatingBalancer, "eager": kgo.StickyBalancer} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			{
				const partitions, rounds, batch = 6, 30, 25
				b := newWire(t, kfake.SeedTopics(partitions, "t"))
				var mu sync.Mutex
				done := make(map[string]int)
				change := func(c *LoopConfig, _ *member) {
					if balancer != nil {
						c.Balancer = balancer()
					}
					c.Handle = func(_ context.Context, task *Task) {
						go func() { // out of order, over some time
							select {
							case <-time.After(time.Duration(task.Record.Offset*7919%211) * time.Millisecond):
								mu.Lock()
								done[fmt.Sprintf("%d/%d", task.Record.Partition, task.Record.Offset)]++
								mu.Unlock()
								task.Done()
							case <-task.Context().Done():
							}
						}()
					}
				}
				members := []*member{b.member(change)}
				pace := time.NewTicker(150 * time.Millisecond)
				defer pace.Stop()
				for round := range rounds {
					for p := range int32(partitions) {
						b.produce("t", p, batch)
					}
					<-pace.C
					switch round % 10 {
					case 2, 4:
						members = append(members, b.member(change))
					case 6, 8:
						members[0].leave()
						members = members[1:]
					}
				}
				b.until("all are done", func() bool { mu.Lock(); defer mu.Unlock(); return len(done) == partitions*rounds*batch })
				for _, m := range members {
					m.leave()
				}
				repeats := 0
				for _, n := range done {
					repeats += n - 1
				}
				require.Zero(t, repeats, "members that leave in good order leave nothing to repeat")
				for p := range int32(partitions) {
					require.EqualValues(t, rounds*batch, b.committed("t", p).Offset)
				}
			}
		})
	}
}

// A partition that is taken away while work takes longer than RevokeTimeout: its late results count for nothing.
func TestLoopLateResults(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, apart func(string) bool) {
		b := newBed(t, kfake.SeedTopics(2, "t"))
		b.apart = apart
		b.produce("t", 0, 3)
		b.produce("t", 1, 3)
		m1 := b.member(nil)
		b.until("all are handed out", func() bool { return len(m1.offsets("t", 0)) == 3 && len(m1.offsets("t", 1)) == 3 })
		m2 := b.member(nil)
		b.until("shared", func() bool { return len(m2.Assignment()) == 1 })
		moved := m2.Assignment()[0]
		b.until("handed out again", func() bool { return len(m2.offsets(moved.Topic, moved.Partition)) == 3 })
		require.Equal(t, []TopicPartition{moved}, m1.lost)
		for _, task := range m1.tasks {
			if task.Record.Partition == moved.Partition {
				require.Error(t, task.Context().Err(), "work on a lost partition is cancelled")
			} else {
				require.NoError(t, task.Context().Err())
			}
			task.Done()
		}
		time.Sleep(5 * time.Second)
		require.EqualValues(t, 3, b.committed("t", 1-moved.Partition).Offset)
		require.Less(t, b.committed("t", moved.Partition).Offset, int64(1), "a late result was committed for somebody else's partition")
		m1.leave()
		for o := range int64(3) {
			m2.task(o).Done()
		}
		m2.leave()
	})
}

func TestLoopBrokerAway(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, apart func(string) bool) {
		vnet := new(kfake.VirtualNetwork)
		log := zap.NewNop()
		dir := t.TempDir()
		b := &bed{t: t, patience: 10 * time.Minute, log: log, cfg: Config{Brokers: []string{"localhost:9092"}},
			dial: kgo.Dialer(dialer(vnet)), dialFn: dialer(vnet), apart: apart}
		start := func() {
			var err error
			b.cluster, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(9092), kfake.ListenFn(vnet.Listen), kfake.SeedTopics(1, "t"), kfake.DataDir(dir))
			require.NoError(t, err)
			b.client, err = kgo.NewClient(kgo.SeedBrokers(b.cfg.Brokers...), b.dial, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableClientMetrics())
			require.NoError(t, err)
		}
		m := b.member(func(c *LoopConfig, m *member) {
			c.Handle = func(_ context.Context, task *Task) {
				m.add(task)
				if task.Record.Offset != 2 {
					task.Done()
				}
			}
		})
		time.Sleep(30 * time.Second)
		require.ErrorContains(t, m.Ready(), "waiting for Kafka at localhost:9092")
		start()
		b.produce("t", 0, 10)
		b.until("all are handed out", func() bool { return len(m.offsets("t", 0)) == 10 })
		b.until("ready", func() bool { return m.Ready() == nil })
		b.until("the commit", func() bool { return b.committed("t", 0).Offset == 2 })
		b.client.Close()
		b.cluster.Close()
		b.until("it is noticed", func() bool { return m.Ready() != nil })
		time.Sleep(2 * time.Minute)
		// With no broker left, membership is lost: what is done now counts for nothing, and comes again.
		require.Error(t, m.task(2).Context().Err())
		m.task(2).Done()
		start()
		b.produce("t", 0, 5)
		b.until("the rest", func() bool { return slices.Contains(m.offsets("t", 0), 14) })
		require.Equal(t, append(append(seq(0, 10), 2), seq(10, 15)...), m.offsets("t", 0), "what was done and committed is not repeated")
		m.task(2).Done()
		b.until("the commit", func() bool { return b.committed("t", 0).Offset == 15 })
		b.client.Close()
		b.cluster.Close()
		// With the broker away for good, the end is still bounded.
		began := time.Now()
		m.leave()
		require.Less(t, time.Since(began), 40*time.Second)
	})
}

func TestLoopReportsLostRecords(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, apart func(string) bool) {
		b := newBed(t, kfake.SeedTopics(1, "t"))
		b.apart = apart
		b.log = zap.NewNop()
		b.produce("t", 0, 10)
		m := b.member(nil)
		b.until("all are handed out", func() bool { return len(m.offsets("t", 0)) == 10 })
		for o := range int64(5) {
			m.task(o).Done()
		}
		for o := int64(5); o < 10; o++ {
			m.task(o).Abandon()
		}
		m.leave()
		b.produce("t", 0, 10)
		require.NoError(t, b.cluster.DeleteRecords("t", 0, 12))
		m = b.member(nil)
		b.until("the rest is handed out", func() bool { return len(m.offsets("t", 0)) == 8 })
		require.Equal(t, []Loss{{TopicPartition{"t", 0}, 5, 12, LossRetention}}, m.losses)
		for o := int64(12); o < 20; o++ {
			m.task(o).Done()
		}
		b.until("the commit", func() bool { return b.committed("t", 0).Offset == 20 })
		m.leave()
	})
	eachReader(t, func(t *testing.T, apart func(string) bool) { // all of them, with nothing after
		b := newBed(t, kfake.SeedTopics(1, "t"))
		b.apart = apart
		b.log = zap.NewNop()
		b.produce("t", 0, 10)
		m := b.member(nil)
		b.until("all are handed out", func() bool { return len(m.offsets("t", 0)) == 10 })
		for o := range int64(10) {
			m.task(o).Done()
		}
		m.leave()
		b.produce("t", 0, 10)
		require.NoError(t, b.cluster.DeleteRecords("t", 0, -1))
		m = b.member(nil)
		b.until("it is reported", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return len(m.losses) > 0 })
		b.produce("t", 0, 1)
		b.until("what follows is handed out", func() bool { return len(m.offsets("t", 0)) == 1 })
		require.Equal(t, []Loss{{TopicPartition{"t", 0}, 10, 20, LossRetention}}, m.losses)
		m.task(20).Done()
		m.leave()
	})
}

// A transaction's markers and aborted records are gaps.
func TestLoopGaps(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, apart func(string) bool) {
		b := newBed(t, kfake.SeedTopics(1, "t"))
		b.apart = apart
		tx, err := kgo.NewClient(kgo.SeedBrokers(b.cfg.Brokers...), b.dial, kgo.TransactionalID("x"), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableClientMetrics())
		require.NoError(t, err)
		for _, commit := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit} {
			require.NoError(t, tx.BeginTransaction())
			for range 5 {
				require.NoError(t, tx.ProduceSync(t.Context(), &kgo.Record{Topic: "t"}).FirstErr())
			}
			require.NoError(t, tx.EndTransaction(t.Context(), commit))
		}
		tx.Close()
		m := b.member(func(c *LoopConfig, _ *member) { c.ReadCommitted = true })
		b.until("all are handed out", func() bool { return len(m.offsets("t", 0)) == 10 })
		require.Equal(t, append(seq(0, 5), seq(12, 17)...), m.offsets("t", 0))
		for _, o := range m.offsets("t", 0) {
			if o != 3 {
				m.task(o).Done()
			}
		}
		b.until("the commit", func() bool { return b.committed("t", 0).Offset == 3 })
		m.crash()
		again := b.member(func(c *LoopConfig, _ *member) { c.ReadCommitted = true })
		b.until("the rest", func() bool { return len(again.offsets("t", 0)) == 1 })
		require.Equal(t, []int64{3}, again.offsets("t", 0))
		again.task(3).Done()
		b.until("the commit", func() bool { return b.committed("t", 0).Offset >= 17 })
		again.leave()
	})
}

// A log that was cut, or a topic made anew, is read again; what is then done of the old one is not committed.
func TestLoopTruncatedLog(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, apart func(string) bool) {
		b := newBed(t, kfake.SeedTopics(1, "t"))
		b.apart = apart
		b.log = zap.NewNop()
		b.produce("t", 0, 10)
		m := b.member(nil)
		b.until("all are handed out", func() bool { return len(m.offsets("t", 0)) == 10 })
		for o := range int64(8) {
			m.task(o).Done()
		}
		b.until("the commit", func() bool { return b.committed("t", 0).Offset == 8 })
		m.stop()
		m.task(8).Abandon()
		m.task(9).Abandon()
		require.NoError(t, <-m.end)
		require.NoError(t, b.cluster.DeleteTopic("t"))
		require.NoError(t, b.cluster.CreateTopic("t", 1, nil))
		// kfake drops the commit with the topic, as Kafka does; somebody restores it from a backup.
		cl, err := kgo.NewClient(kgo.SeedBrokers(b.cfg.Brokers...), b.dial, kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.DisableClientMetrics())
		require.NoError(t, err)
		b.until("joined", func() bool { _, g := cl.GroupMetadata(); return g >= 0 })
		cl.CommitOffsetsSync(t.Context(), map[string]map[int32]kgo.EpochOffset{"t": {0: {Epoch: -1, Offset: 8}}}, nil)
		cl.Close()
		b.client.Close()
		b.client, err = kgo.NewClient(kgo.SeedBrokers(b.cfg.Brokers...), b.dial, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableClientMetrics())
		require.NoError(t, err)
		b.produce("t", 0, 3)
		m = b.member(nil)
		b.until("read from its start", func() bool { return len(m.offsets("t", 0)) == 3 })
		require.Equal(t, []Loss{{TopicPartition{"t", 0}, 0, 8, LossTruncated}}, m.losses)
		for o := range int64(3) {
			m.task(o).Done()
		}
		b.until("the commit", func() bool { return b.committed("t", 0).Offset == 3 })
		m.leave()
	})
}

// Assigned runs before the first record, is repeated until it succeeds, and holds only its own partition up.
func TestLoopAssigned(t *testing.T) {
	t.Parallel()
	eachReader(t, func(t *testing.T, apart func(string) bool) {
		b := newBed(t, kfake.SeedTopics(2, "t"))
		b.apart = apart
		b.log = zap.NewNop()
		b.produce("t", 0, 3)
		b.produce("t", 1, 3)
		var mu sync.Mutex
		tries := 0
		m := b.member(func(c *LoopConfig, _ *member) {
			c.Assigned = func(_ context.Context, a Assignment) error {
				assert.EqualValues(t, -1, a.Committed)
				assert.False(t, a.Done(0))
				if a.Partition == 1 {
					return nil
				}
				time.Sleep(10 * time.Second)
				mu.Lock()
				defer mu.Unlock()
				if tries++; tries < 3 {
					return fmt.Errorf("try %d", tries)
				}
				return nil
			}
		})
		b.until("the other one", func() bool { return len(m.offsets("t", 1)) == 3 })
		require.ErrorContains(t, m.Ready(), "preparing partition t/0")
		require.Empty(t, m.offsets("t", 0))
		b.until("ready", func() bool { return m.Ready() == nil })
		b.until("the first one", func() bool { return len(m.offsets("t", 0)) == 3 })
		for _, task := range m.tasks {
			task.Done()
		}
		m.leave()
	})
}

// Commits that the broker refuses for a while are made later, and nothing is taken for committed meanwhile.
func TestLoopCommitFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, kfake.SeedTopics(1, "t"))
		b.log = zap.NewNop()
		b.produce("t", 0, 3)
		f := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: kerr.OffsetMetadataTooLarge, Count: 3})
		m := b.member(nil)
		b.until("all are handed out", func() bool { return len(m.offsets("t", 0)) == 3 })
		m.task(0).Done()
		m.task(2).Done()
		b.until("the refusals", func() bool { return f.Hits() == 3 })
		b.until("the commit", func() bool { return b.committed("t", 0).Offset == 1 && b.committed("t", 0).Metadata != "" })
		m.task(1).Done()
		m.leave()
	})
}

// P-03: while commits fail no more is completed beyond the last one than a crash may repeat, readiness says why, and what waits
// goes on when they succeed.
func TestLoopHoldsBackWhileCommitsFail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, kfake.SeedTopics(2, "t"))
		b.log = zap.NewNop()
		const most = 10
		f := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Topic: "t", Partitions: []int32{0}, Err: kerr.CoordinatorNotAvailable, Count: -1})
		m := b.member(func(c *LoopConfig, m *member) {
			c.CommitCount = most
			c.Handle = func(_ context.Context, task *Task) { m.add(task); task.Done() }
		})
		b.produce("t", 0, 1)
		b.until("a commit is refused", func() bool { return m.overdue.Load() != nil })
		require.NoError(t, m.Ready(), "nothing waits for it")
		b.produce("t", 0, 5*most)
		b.produce("t", 1, 5*most)
		hits := f.Hits()
		b.until("more refusals", func() bool { return f.Hits() >= hits+5 })
		b.until("the others are done", func() bool { return len(m.offsets("t", 1)) == 5*most })
		assert.Equal(t, seq(0, most), m.offsets("t", 0))
		require.ErrorIs(t, m.Ready(), kerr.CoordinatorNotAvailable)
		f.Remove()
		b.until("all are handed out", func() bool { return len(m.offsets("t", 0)) == 5*most+1 })
		b.until("all are committed", func() bool { return b.committed("t", 0).Offset == 5*most+1 })
		require.NoError(t, m.Ready())
		m.leave()
	})
}
