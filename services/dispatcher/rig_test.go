package dispatcher

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/kafkatest"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

// patience bounds every wait of a test; it is only met when something is broken.
const testPatience = 20 * time.Second

// rig is a broker with the pipeline's topics, and what a filter and a console would write to them.
type rig struct {
	t          testing.TB
	cfg        Config
	partitions int
	codec      *event.Codec
	registry   *kafka.Registry
	client     *kgo.Client
	serial     int
}

// newRig starts a broker. change may alter the dispatcher's configuration and the topics before they are made.
func newRig(t testing.TB, change func(*Config, []topic.Topic)) *rig {
	t.Helper()
	return newRigOn(t, kafkatest.Cluster(t), change)
}

// newRigOn is newRig on a broker that runs.
func newRigOn(t testing.TB, target kafkatest.Target, change func(*Config, []topic.Topic)) *rig {
	t.Helper()
	r := &rig{t: t, partitions: 2}
	r.cfg = Config{
		Config:        kafka.Config{Brokers: target.Brokers},
		Egress:        egress.Config{AllowPrivate: true, AllowHTTP: true},
		RetrySchedule: []time.Duration{20 * time.Millisecond, 60 * time.Millisecond},
	}
	// The tiers of the schedule are the topics', so that what changes one changes both.
	topics := topic.All(topic.Policy{Partitions: r.partitions, RetryDelays: r.cfg.RetrySchedule})
	if change != nil {
		change(&r.cfg, topics)
	}
	var err error
	if r.registry, err = kafka.NewRegistry(kafka.RegistryConfig{URLs: []string{target.RegistryURL}}); err != nil {
		t.Fatal(err)
	}
	r.codec = event.NewCodec(r.registry)
	if r.client, err = kgo.NewClient(kgo.SeedBrokers(target.Brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(8<<20), kgo.MetadataMinAge(10*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.Close)
	var specs []kafka.TopicSpec
	for _, tp := range topics {
		specs = append(specs, kafka.TopicSpec{Name: tp.Name, Partitions: tp.Partitions, Retention: tp.Retention, MaxBytes: tp.MaxBytes})
	}
	if _, err := kafka.EnsureTopics(t.Context(), r.client, specs, zap.NewNop(), kafka.TopicOptions{}); err != nil {
		t.Fatal(err)
	}
	return r
}

// running is a dispatcher that runs.
type running struct {
	*Service
	stop func() error
}

// start runs a dispatcher until stop or the end of the test, and waits until it is ready.
func (r *rig) start() *running {
	r.t.Helper()
	return r.run(Deps{Telemetry: telemetry.Nop(), Codec: event.NewCodec(r.registry), Box: testBox(r.t), Version: "test"})
}

// run is start with dependencies of the test's own.
func (r *rig) run(deps Deps) *running {
	r.t.Helper()
	s, err := New(r.cfg, deps)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	var once sync.Once
	run := &running{Service: s}
	run.stop = func() (err error) {
		once.Do(func() {
			cancel()
			err = <-ended
		})
		return err
	}
	r.t.Cleanup(func() {
		if err := run.stop(); err != nil {
			r.t.Errorf("the dispatcher ended with %v", err)
		}
	})
	until(r.t, "the dispatcher is ready", func() bool { return s.Ready() == nil })
	return run
}

// until waits for a condition.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(testPatience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited %v for: %s", testPatience, what)
		}
	}
}

func (r *rig) produce(records ...*kgo.Record) {
	r.t.Helper()
	if err := r.client.ProduceSync(r.t.Context(), records...).FirstErr(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) encode(rec event.Record) []byte {
	r.t.Helper()
	value, err := r.codec.Encode(r.t.Context(), nil, rec)
	if err != nil {
		r.t.Fatal(err)
	}
	return value
}

// feed writes a version of a subscription; it returns the offset after it.
func (r *rig) feed(rec *event.SubscriptionRecord) int64 {
	r.t.Helper()
	record := &kgo.Record{Topic: topic.Subscriptions, Key: []byte(rec.ID), Value: r.encode(rec)}
	r.produce(record)
	return record.Offset + 1
}

// signalRecord is a signal as a dispatcher writes it.
func (r *rig) signalRecord(s *event.Signal) *kgo.Record {
	r.t.Helper()
	return &kgo.Record{Topic: topic.Signals, Key: []byte(s.SubscriptionID), Value: r.encode(s)}
}

// delivery makes a delivery of a subscription with an id of its own.
func (r *rig) delivery(sub string, change func(*event.Delivery)) *event.Delivery {
	r.serial++
	now := time.Now()
	d := &event.Delivery{
		ID: fmt.Sprintf("msg_%s_%d", sub, r.serial), Tenant: "acme", SubscriptionID: sub, SubscriptionVersion: 1,
		EventID: fmt.Sprintf("evt_%d", r.serial), EventType: "call.ended", Source: "test", CallID: "c-1", EventTime: now, AcceptedAt: now,
		ContentType: "application/json", Method: "POST", Body: fmt.Appendf(nil, `{"n":%d}`, r.serial), Lane: "standard",
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", EventTopic: topic.CallsEvents,
	}
	if change != nil {
		change(d)
	}
	return d
}

// record is a delivery as the filter writes it.
func (r *rig) record(d *event.Delivery) *kgo.Record {
	return &kgo.Record{
		Topic: topic.Lane("standard"), Partition: topic.PartitionFor(d.SubscriptionID, d.CallID, 1, r.partitions),
		Key: []byte(d.SubscriptionID), Value: r.encode(d), Headers: []kgo.RecordHeader{
			kafka.StringHeader(kafka.HeaderTenant, d.Tenant), kafka.StringHeader(kafka.HeaderType, d.EventType),
			kafka.StringHeader(kafka.HeaderID, d.EventID), kafka.StringHeader(kafka.HeaderSource, d.Source),
			kafka.StringHeader(kafka.HeaderTraceparent, d.Traceparent), kafka.StringHeader(kafka.HeaderSubscription, d.SubscriptionID),
			kafka.IntHeader(kafka.HeaderSubscriptionVersion, d.SubscriptionVersion), kafka.StringHeader(kafka.HeaderDelivery, d.ID),
			kafka.IntHeader(kafka.HeaderAcceptedAt, d.AcceptedAt.UnixMicro()),
		},
	}
}

// deliver writes n deliveries of a subscription.
func (r *rig) deliver(sub string, n int, change func(*event.Delivery)) []*event.Delivery {
	r.t.Helper()
	var all []*event.Delivery
	var records []*kgo.Record
	for range n {
		d := r.delivery(sub, change)
		all, records = append(all, d), append(records, r.record(d))
	}
	r.produce(records...)
	return all
}

// topicLog is a topic read from its start.
type topicLog struct {
	t   testing.TB
	mu  sync.Mutex
	all []*kgo.Record
}

func (r *rig) read(name string) *topicLog {
	r.t.Helper()
	partitions := map[int32]kgo.Offset{}
	n := r.partitions
	if name == topic.Signals {
		n = 1
	}
	for p := range n {
		partitions[int32(p)] = kgo.NewOffset().AtStart()
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(r.cfg.Brokers...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{name: partitions}))
	if err != nil {
		r.t.Fatal(err)
	}
	l := &topicLog{t: r.t}
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	var reader sync.WaitGroup
	reader.Go(func() {
		for ctx.Err() == nil {
			fetches := c.PollFetches(ctx)
			l.mu.Lock()
			fetches.EachRecord(func(rec *kgo.Record) { l.all = append(l.all, rec) })
			l.mu.Unlock()
		}
	})
	r.t.Cleanup(func() { cancel(); reader.Wait(); c.Close() })
	return l
}

func (l *topicLog) records() []*kgo.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all[:len(l.all):len(l.all)]
}

func (l *topicLog) wait(n int) []*kgo.Record {
	l.t.Helper()
	until(l.t, fmt.Sprintf("%d records", n), func() bool { return len(l.records()) >= n })
	return l.records()
}

// decoded returns the log's first n records as what they hold.
func decoded[T any, P interface {
	*T
	event.Record
}](r *rig, l *topicLog, n int) []*T {
	r.t.Helper()
	var out []*T
	for _, rec := range l.wait(n) {
		v := new(T)
		if err := r.codec.Decode(r.t.Context(), rec.Value, P(v)); err != nil {
			r.t.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

// done waits until the group has committed everything that stands in its topics.
func (r *rig) done() {
	r.t.Helper()
	adm := kadm.NewClient(r.client)
	names := []string{topic.Lane("standard"), topic.Slow, topic.Ordered}
	for _, d := range r.cfg.RetrySchedule {
		names = append(names, topic.RetryTier(d))
	}
	until(r.t, "everything is committed", func() bool {
		// In this order: what follows from a record stands in its topic before that record is committed.
		committed, err := adm.FetchOffsets(r.t.Context(), Group)
		if err != nil {
			return false
		}
		ends, err := adm.ListEndOffsets(r.t.Context(), names...)
		if err != nil {
			r.t.Fatal(err)
		}
		behind := 0
		ends.Each(func(end kadm.ListedOffset) {
			at := int64(0)
			if o, ok := committed.Lookup(end.Topic, end.Partition); ok {
				at = o.At
			}
			// An answer from before the topics were made tells nothing.
			if end.Err != nil || at < end.Offset {
				behind++
			}
		})
		return behind == 0
	})
}
