package filter_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/config"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/kafkatest"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/filter"
	"github.com/callstream/callstream/subscription"
)

// patience bounds waits; running into it means that something is stuck.
const patience = 60 * time.Second

const partitions = 2

// rig is a filter on a cluster of its own, seen from the topics.
type rig struct {
	t        testing.TB
	target   kafkatest.Target
	registry *registry
	codec    *event.Codec // the test's own
	producer *kafka.Producer
	adm      *kadm.Client
	service  *filter.Service
	stop     func() // ends the service, drained
	version  int64
	change   func(*filter.Config)
	tel      *telemetry.Telemetry
}

// parallel lets a test run beside others where each has a broker of its own; on Apache Kafka they share one.
func parallel(t *testing.T) {
	t.Helper()
	if os.Getenv("CALLSTREAM_TEST_KAFKA") != "apache" {
		t.Parallel()
	}
}

// registry is a schema registry that can be cut off.
type registry struct {
	event.Registry
	away  atomic.Bool
	asked atomic.Int64 // in vain
}

var errAway = errors.New("no route to the registry")

func (r *registry) SchemaByID(ctx context.Context, id int) (string, error) {
	if r.away.Load() {
		r.asked.Add(1)
		return "", errAway
	}
	return r.Registry.SchemaByID(ctx, id)
}

// newRig makes the topics; the service runs after start.
func newRig(t testing.TB) *rig {
	t.Helper()
	target := kafkatest.Cluster(t)
	reg, err := kafka.NewRegistry(kafka.RegistryConfig{URLs: []string{target.RegistryURL}})
	require.NoError(t, err)
	r := &rig{t: t, target: target, registry: &registry{Registry: reg}, codec: event.NewCodec(reg), tel: telemetry.Nop()}
	require.NoError(t, r.codec.Prepare(t.Context()))
	admin, err := kgo.NewClient(kgo.SeedBrokers(target.Brokers...))
	require.NoError(t, err)
	var specs []kafka.TopicSpec
	for _, tp := range topic.All(topic.Policy{Partitions: partitions}) {
		specs = append(specs, kafka.TopicSpec{Name: tp.Name, Partitions: tp.Partitions, Retention: tp.Retention, MaxBytes: tp.MaxBytes})
	}
	_, err = kafka.EnsureTopics(t.Context(), admin, specs, zap.NewNop(), kafka.TopicOptions{NeverCompact: true})
	require.NoError(t, err)
	admin.Close()
	r.producer, err = kafka.NewProducer(kafka.Config{Brokers: target.Brokers}, nil, kafka.ManualPartitions(func(string) bool { return false }))
	require.NoError(t, err)
	t.Cleanup(r.producer.Close)
	r.adm = kadm.NewClient(r.producer.Client())
	return r
}

// start runs the filter until stop, or the end of the test.
func (r *rig) start() {
	r.t.Helper()
	var cfg filter.Config
	require.NoError(r.t, config.Load(&cfg, config.Source{Args: []string{"--kafka-brokers=" + strings.Join(r.target.Brokers, ",")}}))
	if r.change != nil {
		r.change(&cfg)
	}
	service, err := filter.New(cfg, filter.Deps{Telemetry: r.tel, Codec: event.NewCodec(r.registry)})
	require.NoError(r.t, err)
	r.service = service
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := service.Run(ctx); err != nil {
			r.t.Error(err)
		}
	})
	r.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	r.t.Cleanup(r.stop)
	r.eventually("the filter is ready", service.Ready)
}

func (r *rig) eventually(what string, cond func() error) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("waited in vain for: %s: %v", what, err)
		}
		<-tick.C
	}
}

// subscribe puts a subscription on the feed and waits until it is in force, where the filter runs.
func (r *rig) subscribe(s *subscription.Subscription) {
	r.t.Helper()
	if s.URL == "" {
		s.URL = "https://crm.example.com/hooks"
	}
	if s.State == "" {
		s.State = subscription.StateActive
	}
	if s.Tenant == "" {
		s.Tenant = "acme"
	}
	r.version++
	s.Version = r.version
	record, err := s.Record(1)
	require.NoError(r.t, err)
	r.feed(record)
}

func (r *rig) feed(record *event.SubscriptionRecord) {
	r.t.Helper()
	value, err := r.codec.Encode(r.t.Context(), nil, record)
	require.NoError(r.t, err)
	rec := &kgo.Record{Topic: topic.Subscriptions, Key: []byte(record.ID), Value: value}
	require.NoError(r.t, r.producer.ProduceSync(r.t.Context(), rec))
	if r.service != nil {
		require.NoError(r.t, r.service.WaitApplied(r.t.Context(), rec.Offset+1))
	}
}

// eventRecord is the record of an event, as the producer writes it.
func (r *rig) eventRecord(raw string) *kgo.Record {
	r.t.Helper()
	e, err := event.Parse([]byte(raw))
	require.NoError(r.t, err)
	if e.Tenant == "" {
		e.Tenant = "acme"
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	if e.Time.IsZero() {
		e.Time = now
	}
	e.IngestedAt = now
	rec := r.direct(e)
	rec.Headers = []kgo.RecordHeader{
		kafka.StringHeader(kafka.HeaderType, e.Type), kafka.StringHeader(kafka.HeaderID, e.ID),
		kafka.StringHeader(kafka.HeaderSource, e.Source), kafka.StringHeader(kafka.HeaderTenant, e.Tenant),
		kafka.StringHeader(kafka.HeaderTraceparent, traceparent),
	}
	return rec
}

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// direct is a record as another team writes it: Avro, no headers.
func (r *rig) direct(e *event.Event) *kgo.Record {
	r.t.Helper()
	value, err := r.codec.EncodeEvent(r.t.Context(), nil, e)
	require.NoError(r.t, err)
	return &kgo.Record{Topic: e.Topic(), Key: e.Key(), Value: value}
}

// publish writes records, one after the other, and waits until the filter is done with all there is.
func (r *rig) publish(records ...*kgo.Record) {
	r.t.Helper()
	for _, rec := range records {
		require.NoError(r.t, r.producer.ProduceSync(r.t.Context(), rec))
	}
	r.settled()
}

func (r *rig) post(events ...string) {
	r.t.Helper()
	records := make([]*kgo.Record, len(events))
	for i, raw := range events {
		records[i] = r.eventRecord(raw)
	}
	r.publish(records...)
}

// settled waits until the filter has committed everything on the event topics.
func (r *rig) settled() {
	r.t.Helper()
	r.committed(filter.Group, topic.Events()...)
}

// replay asks for events to be sent again, and waits until it is done.
func (r *rig) replay(command event.Replay, events ...*kgo.Record) {
	r.t.Helper()
	r.askReplay(command, events...)
	r.committed(filter.ReplayGroup, topic.Replays)
}

func (r *rig) askReplay(command event.Replay, events ...*kgo.Record) {
	r.t.Helper()
	command.Command = "start"
	if command.Tenant == "" {
		command.Tenant = "acme"
	}
	for _, e := range events {
		command.Events = append(command.Events, event.ReplayEvent{Topic: e.Topic, Partition: e.Partition, Offset: e.Offset})
	}
	value, err := r.codec.Encode(r.t.Context(), nil, &command)
	require.NoError(r.t, err)
	require.NoError(r.t, r.producer.ProduceSync(r.t.Context(), &kgo.Record{Topic: topic.Replays, Key: []byte(command.ID), Value: value}))
}

func (r *rig) committed(group string, topics ...string) {
	r.t.Helper()
	r.eventually("the filter commits everything", func() error {
		ends, err := r.adm.ListEndOffsets(r.t.Context(), topics...)
		if err != nil {
			return err
		}
		committed, err := r.adm.FetchOffsets(r.t.Context(), group)
		if err != nil {
			return err
		}
		ends.Each(func(end kadm.ListedOffset) {
			at, _ := committed.Lookup(end.Topic, end.Partition)
			if end.Offset > 0 && at.At < end.Offset {
				err = fmt.Errorf("%s[%d] is at %d of %d", end.Topic, end.Partition, at.At, end.Offset)
			}
		})
		return err
	})
}

// read returns all records of a topic, in the order of partitions and offsets.
func (r *rig) read(name string) []*kgo.Record {
	r.t.Helper()
	ends, err := r.adm.ListEndOffsets(r.t.Context(), name)
	require.NoError(r.t, err)
	starts := map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			starts[o.Partition] = kgo.NewOffset().AtStart()
		}
	})
	if len(starts) == 0 {
		return nil
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(r.target.Brokers...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{name: starts}))
	require.NoError(r.t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	byPartition := make([][]*kgo.Record, partitions)
	for left := len(starts); left > 0; {
		fetches := client.PollFetches(ctx)
		require.NoError(r.t, fetches.Err())
		fetches.EachRecord(func(rec *kgo.Record) {
			byPartition[rec.Partition] = append(byPartition[rec.Partition], rec)
			if end, _ := ends.Lookup(name, rec.Partition); rec.Offset+1 == end.Offset {
				left--
			}
		})
	}
	var all []*kgo.Record
	for _, records := range byPartition {
		all = append(all, records...)
	}
	return all
}

func decoded[T any, R interface {
	*T
	event.Record
}](r *rig, name string) []T {
	r.t.Helper()
	var out []T
	for _, rec := range r.read(name) {
		var v T
		require.NoError(r.t, r.codec.Decode(r.t.Context(), rec.Value, R(&v)))
		out = append(out, v)
	}
	return out
}

func (r *rig) deliveries() []event.Delivery {
	return decoded[event.Delivery](r, topic.Lane("standard"))
}
func (r *rig) decisions() []event.Decision { return decoded[event.Decision](r, topic.Decisions) }
func (r *rig) dead() []event.DeadLetter    { return decoded[event.DeadLetter](r, topic.DeadLetters) }

// decision returns what was decided about an event for a subscription; the last one, where there are several.
func (r *rig) decision(eventID, subscriptionID string) event.DecisionEntry {
	r.t.Helper()
	var found *event.DecisionEntry
	for _, d := range r.decisions() {
		for i := range d.Decisions {
			if d.EventID == eventID && d.Decisions[i].SubscriptionID == subscriptionID {
				found = &d.Decisions[i]
			}
		}
	}
	require.NotNil(r.t, found, "no decision about %s for %s", eventID, subscriptionID)
	return *found
}
