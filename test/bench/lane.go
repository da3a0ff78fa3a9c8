package main

import (
	"context"
	"fmt"
	"time"

	"github.com/callstream/callstream/pkg/embedded"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/kafkatest"
	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

const (
	lanePartitions = 8
	// encryptionKey is 32 zero bytes in base64.
	encryptionKey = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	signingSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
)

// lane is a broker with what a filter and a console would have written for a dispatcher.
type lane struct {
	stop    func() // ends the broker
	client  *kgo.Client
	codec   *event.Codec
	box     *secret.Box
	brokers string
	reg     string
	serial  int
}

// newLane starts an embedded broker with the pipeline's topics.
func (b *bench) newLane(ctx context.Context, schedule []time.Duration) (*lane, error) {
	broker, err := cast(ctx, "broker", b.data("broker"))
	if err != nil {
		return nil, err
	}
	return layOut(ctx, &lane{stop: broker.end, brokers: broker.words[0], reg: broker.words[1]}, schedule)
}

// newApacheLane starts an Apache Kafka with the pipeline's topics.
func (b *bench) newApacheLane(ctx context.Context, schedule []time.Duration) (*lane, error) {
	a, err := kafkatest.StartApache(ctx, 1, b.data("kafka"))
	if err != nil {
		return nil, err
	}
	registry, err := embedded.StartRegistry(ctx, embedded.Config{DataDir: b.data("registry"), Compatible: event.Compatible})
	if err != nil {
		a.Stop()
		return nil, err
	}
	stop := func() {
		_ = registry.Close()
		a.Stop()
	}
	return layOut(ctx, &lane{stop: stop, brokers: a.Brokers[0], reg: registry.RegistryURL()}, schedule)
}

// layOut connects to a lane's broker and makes the topics; the broker ends where that fails.
func layOut(ctx context.Context, l *lane, schedule []time.Duration) (_ *lane, err error) {
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	registry, err := kafka.NewRegistry(kafka.RegistryConfig{URLs: []string{l.reg}})
	if err != nil {
		return nil, err
	}
	l.codec = event.NewCodec(registry)
	if l.box, err = secret.NewBox(make([]byte, secret.KeySize)); err != nil {
		return nil, err
	}
	if l.client, err = kgo.NewClient(kgo.SeedBrokers(l.brokers), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(20_000)); err != nil {
		return nil, fmt.Errorf("connect to the broker: %w", err)
	}
	var specs []kafka.TopicSpec
	for _, t := range topic.All(topic.Policy{Partitions: lanePartitions, RetryDelays: schedule}) {
		specs = append(specs, kafka.TopicSpec{Name: t.Name, Partitions: t.Partitions, Retention: t.Retention, MaxBytes: t.MaxBytes})
	}
	if _, err := kafka.EnsureTopics(ctx, l.client, specs, zap.NewNop(), kafka.TopicOptions{NeverCompact: true}); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *lane) close() {
	if l.client != nil {
		l.client.Close()
	}
	l.stop()
}

// env is what a dispatcher of this lane is told.
func (l *lane) env(more ...string) []string {
	return append([]string{
		"CALLSTREAM_KAFKA_BROKERS=" + l.brokers, "CALLSTREAM_SCHEMA_REGISTRY_URL=" + l.reg, "CALLSTREAM_ENCRYPTION_KEY=" + encryptionKey,
		"CALLSTREAM_HTTP_ADDR=127.0.0.1:0", "CALLSTREAM_ALLOW_PRIVATE_ENDPOINTS=true", "CALLSTREAM_ALLOW_HTTP_ENDPOINTS=true", "CALLSTREAM_LOG_LEVEL=error",
	}, more...)
}

// subscribe writes a subscription to the feed.
func (l *lane) subscribe(ctx context.Context, id, url string, change func(*subscription.Subscription)) error {
	s := &subscription.Subscription{
		ID: id, Tenant: "acme", URL: url, State: subscription.StateActive, Events: []string{"*"}, Version: 1,
		Signing: subscription.Signing{Scheme: subscription.SigningHMAC, Secret: subscription.NewHidden(signingSecret)},
	}
	if change != nil {
		change(s)
	}
	if err := s.Seal(l.box); err != nil {
		return fmt.Errorf("seal a subscription: %w", err)
	}
	record, err := s.Record(1)
	if err != nil {
		return fmt.Errorf("write a subscription: %w", err)
	}
	value, err := l.codec.Encode(ctx, nil, record)
	if err != nil {
		return fmt.Errorf("write a subscription: %w", err)
	}
	return l.client.ProduceSync(ctx, &kgo.Record{Topic: topic.Subscriptions, Key: []byte(id), Value: value}).FirstErr()
}

// delivery is a delivery of event n of a run as the filter writes it, for the lane.
func (l *lane) delivery(ctx context.Context, sub, run string, n int, body []byte) (*kgo.Record, error) {
	l.serial++
	now := time.Now()
	d := &event.Delivery{
		ID: fmt.Sprintf("msg_%d", l.serial), Tenant: "acme", SubscriptionID: sub, SubscriptionVersion: 1,
		EventID: fmt.Sprintf("%s-%d", run, n), EventType: "call.ended", Source: "bench", CallID: "c-1", EventTime: now, AcceptedAt: now,
		ContentType: "application/json", Method: "POST", Body: body, Lane: topic.DefaultLane, EventTopic: topic.CallsEvents,
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
	value, err := l.codec.Encode(ctx, nil, d)
	if err != nil {
		return nil, fmt.Errorf("write a delivery: %w", err)
	}
	return &kgo.Record{
		Topic: topic.Lane(topic.DefaultLane), Partition: topic.PartitionFor(sub, "", 1, lanePartitions), Key: []byte(sub), Value: value,
		Headers: append(kafka.EventHeaders(d.EventType, d.EventID, d.Source, d.Tenant, d.Traceparent),
			kafka.StringHeader(kafka.HeaderSubscription, sub), kafka.IntHeader(kafka.HeaderSubscriptionVersion, 1),
			kafka.StringHeader(kafka.HeaderDelivery, d.ID), kafka.IntHeader(kafka.HeaderAcceptedAt, now.UnixMicro())),
	}, nil
}

// produce writes what next returns until it returns nil, many at a time.
func (l *lane) produce(ctx context.Context, next func() (*kgo.Record, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for ctx.Err() == nil {
		r, err := next()
		if err != nil {
			return err
		}
		if r == nil {
			break
		}
		l.client.Produce(ctx, r, func(_ *kgo.Record, err error) {
			if err != nil {
				cancel(err)
			}
		})
	}
	if err := l.client.Flush(ctx); err != nil {
		return fmt.Errorf("write records: %w", context.Cause(ctx))
	}
	return nil
}
