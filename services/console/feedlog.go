package console

import (
	"context"
	"fmt"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

// feedLog is the log behind the feeds, each of which has one partition, and what else goes through the outbox.
type feedLog interface {
	// append writes a record, nil being a tombstone, and returns its offset once every in-sync replica has it.
	append(ctx context.Context, name string, r feedRecord) (int64, error)
	// read calls fn for every record from the start to where the topic ends now.
	read(ctx context.Context, name string, fn func(feedRecord)) error
}

// feedRecord is one record of a feed.
type feedRecord struct {
	key   string
	value []byte // nil is a tombstone
	// database tells which database wrote the record; empty for what is no feed's.
	database string
	// headers are those of what is no feed's.
	headers []kgo.RecordHeader
}

// headerDatabase carries feedRecord.database. It keeps a console with another database from taking a feed over.
const headerDatabase = "database"

type kafkaLog struct {
	cfg      kafka.Config
	log      *zap.Logger
	producer *kafka.Producer
}

func newKafkaLog(cfg kafka.Config, log *zap.Logger) (*kafkaLog, error) {
	// A change's caller waits for the record, so a broker that is away is noticed; the relay tries again for ever.
	producer, err := kafka.NewProducer(cfg, log, kgo.RecordDeliveryTimeout(publishTimeout))
	if err != nil {
		return nil, err
	}
	return &kafkaLog{cfg: cfg, log: log, producer: producer}, nil
}

func (l *kafkaLog) close() { l.producer.Close() }

// starts returns the first offset that is still in each partition of the event topics.
func (l *kafkaLog) starts(ctx context.Context) (map[kafka.TopicPartition]int64, error) {
	listed, err := kadm.NewClient(l.producer.Client()).ListStartOffsets(ctx, topic.Events()...)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("ask where the event topics begin: %w", err)
	}
	starts := map[kafka.TopicPartition]int64{}
	listed.Each(func(o kadm.ListedOffset) {
		starts[kafka.TopicPartition{Topic: o.Topic, Partition: o.Partition}] = o.Offset
	})
	return starts, nil
}

func (l *kafkaLog) append(ctx context.Context, name string, r feedRecord) (int64, error) {
	rec := &kgo.Record{Topic: name, Key: []byte(r.key), Value: r.value, Headers: r.headers}
	if r.database != "" {
		rec.Headers = append(rec.Headers, kafka.StringHeader(headerDatabase, r.database))
	}
	if err := l.producer.ProduceSync(ctx, rec); err != nil {
		return 0, fmt.Errorf("write to %s: %w", name, err)
	}
	return rec.Offset, nil
}

func (l *kafkaLog) read(ctx context.Context, name string, fn func(feedRecord)) error {
	feed, err := kafka.NewFeed(kafka.FeedConfig{Config: l.cfg, Log: l.log, Topic: name, Apply: func(r *kgo.Record) {
		fn(feedRecord{key: string(r.Key), value: r.Value, database: kafka.Header(r, headerDatabase)})
	}})
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	ctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- feed.Run(ctx) }()
	select {
	case <-feed.Ready():
		stop()
		return <-done
	case err := <-done:
		stop()
		if err == nil {
			err = ctx.Err()
		}
		return fmt.Errorf("read %s: %w", name, err)
	}
}
