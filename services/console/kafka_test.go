package console

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/kafkatest"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

// The console on a broker: changes on the feed when they are answered, signals applied, and nothing written twice after a
// restart.
func TestOnKafka(t *testing.T) {
	brokers, producer, target := allTopics(t)
	registry, err := kafka.NewRegistry(kafka.RegistryConfig{URLs: []string{target.RegistryURL}})
	require.NoError(t, err)

	var feed *kafka.Feed
	h := start(t, func(c *Config, d *Deps) {
		c.Kafka, c.InForceTimeout = brokers, 20*time.Second
		d.Codec, d.log = event.NewCodec(registry), nil
		// In force means here what it means in up: applied by the reader.
		d.InForce = func(ctx context.Context, offset int64) error { return feed.WaitFor(ctx, offset) }
	})
	book := subscription.NewBook()
	feed, err = kafka.NewFeed(kafka.FeedConfig{Config: brokers, Log: zap.NewNop(), Topic: topic.Subscriptions, Apply: func(r *kgo.Record) {
		if r.Value == nil {
			return
		}
		var rec event.SubscriptionRecord
		if err := h.deps.Codec.Decode(context.Background(), r.Value, &rec); err != nil {
			t.Errorf("the feed: %v", err)
			return
		}
		book.Apply(&rec)
	}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- feed.Run(ctx) }()
	defer func() { cancel(); require.NoError(t, <-done) }()
	h.awaitReady()

	id := h.create(`{"url":"` + endpoint(t, obliging) + `","events":["*"]}`).str("id")
	require.True(t, shows(id, 1, 1, false)(book))
	h.do("POST", "/v1/subscriptions/"+id+"/verify", "").is(http.StatusOK)
	require.True(t, shows(id, 1, 2, false)(book))
	require.Len(t, book.Candidates("default", "call.ended", ""), 1)

	signal, err := h.deps.Codec.Encode(t.Context(), nil, &event.Signal{Kind: signalDisable, Tenant: "default", SubscriptionID: id, SubscriptionVersion: 2, Reason: "http_410", At: time.Now()})
	require.NoError(t, err)
	require.NoError(t, producer.ProduceSync(t.Context(), &kgo.Record{Topic: topic.Signals, Key: []byte(id), Value: []byte("not a record")},
		&kgo.Record{Topic: topic.Signals, Key: []byte(id), Value: signal}, &kgo.Record{Topic: topic.Signals, Key: []byte(id), Value: signal}))
	require.Eventually(t, func() bool { return h.do("GET", "/v1/subscriptions/"+id, "").str("state") == "disabled" }, 30*time.Second, 20*time.Millisecond)
	require.Eventually(t, func() bool { return shows(id, 1, 3, false)(book) }, 10*time.Second, 5*time.Millisecond)

	// What became of the endpoint is on the topic of our own events, as filters read it.
	var told []string
	own, err := kafka.NewFeed(kafka.FeedConfig{Config: brokers, Log: zap.NewNop(), Topic: topic.OwnEvents, Apply: func(r *kgo.Record) {
		e, err := h.deps.Codec.DecodeEvent(context.WithoutCancel(t.Context()), r.Topic, r.Value)
		if err != nil {
			t.Errorf("an event: %v", err)
			return
		}
		require.Equal(t, kafka.EventHeaders(e.Type, e.ID, "callstream", "default", e.Traceparent), r.Headers)
		require.Equal(t, "default/"+id, string(r.Key))
		told = append(told, e.Type)
	}})
	require.NoError(t, err)
	reading, stop := context.WithCancel(t.Context())
	read := make(chan error, 1)
	go func() { read <- own.Run(reading) }()
	require.NoError(t, own.WaitFor(t.Context(), 2))
	stop()
	require.NoError(t, <-read)
	require.Equal(t, []string{"endpoint.verified", "endpoint.disabled"}, told)

	h.stop()
	require.NoError(t, feed.CatchUp(t.Context()))
	before := feed.Applied()
	h.run()
	h.awaitReady()
	require.NoError(t, feed.CatchUp(t.Context()))
	require.Equal(t, before, feed.Applied())
	h.do("DELETE", "/v1/subscriptions/"+id, "").is(http.StatusNoContent)
	require.True(t, shows(id, 1, 4, true)(book))
}

// allTopics makes every topic of the console and its history, with one partition each.
func allTopics(t *testing.T) (kafka.Config, *kafka.Producer, kafkatest.Target) {
	t.Helper()
	target := kafkatest.Cluster(t)
	brokers := kafka.Config{Brokers: target.Brokers}
	producer, err := kafka.NewProducer(brokers, zap.NewNop())
	require.NoError(t, err)
	t.Cleanup(producer.Close)
	var specs []kafka.TopicSpec
	for _, declared := range topic.All(topic.Policy{Partitions: 1}) {
		specs = append(specs, kafka.TopicSpec{Name: declared.Name, Partitions: declared.Partitions, Replicas: 1, Retention: declared.Retention, Compact: declared.Compact, MaxBytes: declared.MaxBytes})
	}
	_, err = kafka.EnsureTopics(t.Context(), producer.Client(), specs, zap.NewNop(), kafka.TopicOptions{})
	require.NoError(t, err)
	return brokers, producer, target
}

// startOnKafka runs a console on a broker, with its history, and with nobody who applies the feeds.
func startOnKafka(t *testing.T, change ...func(*Config, *Deps)) *harness {
	t.Helper()
	brokers, producer, _ := allTopics(t)
	h := start(t, append([]func(*Config, *Deps){func(c *Config, d *Deps) {
		c.Kafka, c.InForceTimeout, c.HistoryRetention, d.log = brokers, 20*time.Second, 30*24*time.Hour, nil
	}}, change...)...)
	h.producer = producer
	h.awaitReady()
	return h
}

func (h *harness) produceRecord(name string, r event.Record) {
	h.t.Helper()
	value, err := h.codec.Encode(h.t.Context(), nil, r)
	require.NoError(h.t, err)
	require.NoError(h.t, h.producer.ProduceSync(h.t.Context(), &kgo.Record{Topic: name, Value: value}))
}

func (h *harness) produceEvent(e *event.Event) int64 {
	h.t.Helper()
	value, err := h.codec.EncodeEvent(h.t.Context(), nil, e)
	require.NoError(h.t, err)
	rec := &kgo.Record{Topic: e.Topic(), Key: e.Key(), Value: value}
	require.NoError(h.t, h.producer.ProduceSync(h.t.Context(), rec))
	return rec.Offset
}
