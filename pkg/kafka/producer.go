package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

// Classes of produce errors. Every error of a Producer is exactly one of them, by errors.Is, and wraps the cause.
var (
	// ErrTransient means that the same record may well be accepted later: brokers away, time run out, leader moving.
	// It may also have been written already.
	ErrTransient = errors.New("kafka: transient")
	// ErrTooLarge means that the broker will never take a record of this size on this topic.
	ErrTooLarge = errors.New("kafka: record too large")
	// ErrFatal means that trying again won't help until somebody changes something: no permission, no such topic.
	ErrFatal = errors.New("kafka: fatal")
	// ErrRejected is an ErrFatal that is about the records of one batch: a policy, or a validation, of the broker. Others may be
	// taken, and this one too when it is tried again, if it was its neighbour in the batch that was meant.
	ErrRejected = fmt.Errorf("%w: record refused", ErrFatal)
	// ErrOverloaded means that the buffer was full and the record was not taken (TryProduce only). It is transient too.
	ErrOverloaded = fmt.Errorf("%w: produce buffer is full", ErrTransient)
)

// Defaults of a producer's bounds. At 2 KB a record both are reached at about the same time.
const (
	DefaultBufferedRecords = 32 << 10
	DefaultBufferedBytes   = 64 << 20
	// MaxBatchBytes is the largest batch, and so the largest record, that a producer of ours sends: what the largest
	// topics take (8 MiB), with room for the batch's own header.
	MaxBatchBytes = 8<<20 + 64<<10
)

// Producer writes records with acks=all, idempotently, in the order of the calls for each partition, from a bounded
// buffer.
type Producer struct {
	client *kgo.Client

	mu     sync.Mutex
	faults map[TopicPartition]fault
	away   atomic.Bool // some of them are transient
}

// fault is what a partition's records were last refused for.
type fault struct {
	err         error
	since, last time.Time
}

// faultLasts is for how long a refusal says that a partition is not being written. Whoever insists on a record tries again
// more often than that.
const faultLasts = 30 * time.Second

// NewProducer makes a producer. It connects to nothing yet. Later options replace earlier ones and ours: useful are
// ManualPartitions, TopicBatchBytes and kgo.RecordDeliveryTimeout (without which a record is tried for ever, which is
// right for a pipeline stage and wrong for an HTTP request).
func NewProducer(cfg Config, log *zap.Logger, opts ...kgo.Opt) (*Producer, error) {
	all, err := cfg.Options(log)
	if err != nil {
		return nil, err
	}
	all = append(all,
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(0), // 2 ms of linger on two hops cost 5 ms and bought no throughput
		kgo.MaxBufferedRecords(DefaultBufferedRecords),
		kgo.MaxBufferedBytes(DefaultBufferedBytes),
		kgo.ProducerBatchMaxBytes(MaxBatchBytes),
		kgo.ProduceRequestTimeout(5*time.Second),
		// A topic that does not exist is reported after these tries, not buffered for ever.
		kgo.UnknownTopicRetries(10),
	)
	client, err := kgo.NewClient(append(all, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("make a Kafka producer: %w", err)
	}
	return &Producer{client: client, faults: make(map[TopicPartition]fault)}, nil
}

// ManualPartitions makes a producer write the records of the topics that manual picks to the partition that the record
// names, and those of all others to the one that the Java client's default partitioner would choose for their key.
func ManualPartitions(manual func(topic string) bool) kgo.Opt {
	return kgo.RecordPartitioner(mixedPartitioner{manual: manual, keyed: kgo.StickyKeyPartitioner(nil), named: kgo.ManualPartitioner()})
}

type mixedPartitioner struct {
	manual       func(topic string) bool
	keyed, named kgo.Partitioner
}

// ForTopic chooses for each topic once.
func (p mixedPartitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if p.manual(topic) {
		return p.named.ForTopic(topic)
	}
	return p.keyed.ForTopic(topic)
}

// TopicBatchBytes bounds the batches for each topic: a batch over the topic's max.message.bytes is refused as a whole,
// although each record in it would have fitted. Zero or less means MaxBatchBytes.
func TopicBatchBytes(max func(topic string) int) kgo.Opt {
	return kgo.ProducerBatchMaxBytesFn(func(topic string) int32 {
		if n := max(topic); n > 0 && n < MaxBatchBytes {
			return int32(n)
		}
		return MaxBatchBytes
	})
}

// Produce writes a record and calls done, from another goroutine, with nil once the brokers have acknowledged it, or
// with a classified error. It blocks while the buffer is full, until there is room or ctx ends. Cancelling ctx later
// does not take back a record that is on its way.
func (p *Producer) Produce(ctx context.Context, r *kgo.Record, done func(error)) {
	p.client.Produce(ctx, r, p.promise(done))
}

// TryProduce is Produce, but with a full buffer it fails at once with ErrOverloaded.
func (p *Producer) TryProduce(ctx context.Context, r *kgo.Record, done func(error)) {
	p.client.TryProduce(ctx, r, p.promise(done))
}

func (p *Producer) promise(done func(error)) func(*kgo.Record, error) {
	return func(r *kgo.Record, err error) {
		if err = Classify(err); err != nil {
			p.failed(r, err)
		} else if p.away.Load() {
			p.taken(r)
		}
		if done != nil {
			done(err)
		}
	}
}

// failed notes that a record was not taken, unless that says nothing about its partition.
func (p *Producer) failed(r *kgo.Record, err error) {
	for _, other := range []error{ErrTooLarge, ErrOverloaded, context.Canceled, context.DeadlineExceeded, kgo.ErrClientClosed} {
		if errors.Is(err, other) {
			return
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	at := TopicPartition{r.Topic, r.Partition}
	f := p.faults[at]
	if now.Sub(f.last) > faultLasts {
		f.since = now
	}
	f.err, f.last = err, now
	p.faults[at] = f
	if errors.Is(err, ErrTransient) {
		p.away.Store(true)
	}
}

// taken notes that a record was taken: whatever kept its partition from being written is over, unless only some records
// were refused.
func (p *Producer) taken(r *kgo.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := TopicPartition{r.Topic, r.Partition}
	if errors.Is(p.faults[at].err, ErrTransient) {
		delete(p.faults, at)
	}
	for _, f := range p.faults {
		if errors.Is(f.err, ErrTransient) && time.Since(f.last) <= faultLasts {
			return
		}
	}
	p.away.Store(false)
}

// Err is nil when no record was refused of late; else it names, for each topic, the partition that has been refusing
// longest, since when, and why. It is for those who try again until a record is taken: what holds them up is told to
// nobody else.
func (p *Producer) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	worst := make(map[string]TopicPartition)
	for at, f := range p.faults {
		if time.Since(f.last) > faultLasts {
			delete(p.faults, at)
		} else if w, ok := worst[at.Topic]; !ok || f.since.Before(p.faults[w].since) {
			worst[at.Topic] = at
		}
	}
	var all error
	for _, topic := range slices.Sorted(maps.Keys(worst)) {
		f := p.faults[worst[topic]]
		err := fmt.Errorf("no records of %s are taken since %s: %w", worst[topic], f.since.UTC().Format(time.RFC3339), f.err)
		if all == nil {
			all = fmt.Errorf("refused by Kafka: %w", err)
		} else {
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}

// ProduceSync writes records and waits for all of them. Its error is the first one, classified.
func (p *Producer) ProduceSync(ctx context.Context, rs ...*kgo.Record) error {
	var first error
	for _, result := range p.client.ProduceSync(ctx, rs...) {
		if err := Classify(result.Err); err != nil {
			p.failed(result.Record, err)
			first = cmp.Or(first, err)
		}
	}
	return first
}

// Flush waits until nothing is buffered.
func (p *Producer) Flush(ctx context.Context) error {
	if err := p.client.Flush(ctx); err != nil {
		return fmt.Errorf("flush the Kafka producer: %w", err)
	}
	return nil
}

// Buffered is how many records, and how many bytes of them, wait for their acknowledgement.
func (p *Producer) Buffered() (records, bytes int64) {
	return p.client.BufferedProduceRecords(), p.client.BufferedProduceBytes()
}

// Ping asks a broker for an answer, as a check that there is one.
func (p *Producer) Ping(ctx context.Context) error {
	if err := p.client.Ping(ctx); err != nil {
		return fmt.Errorf("%w: ping Kafka: %w", ErrTransient, err)
	}
	return nil
}

// Client is the client underneath, for admin calls. Don't close it.
func (p *Producer) Client() *kgo.Client { return p.client }

// Close drops what is still buffered, failing it, and disconnects. Flush first.
func (p *Producer) Close() { p.client.Close() }

// Classify wraps an error of a produce call in its class; nil stays nil.
func Classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrTransient), errors.Is(err, ErrTooLarge), errors.Is(err, ErrFatal):
		return err
	case errors.Is(err, kgo.ErrMaxBuffered):
		return ErrOverloaded
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed),
		errors.Is(err, kerr.TransactionalIDAuthorizationFailed), errors.Is(err, kerr.SaslAuthenticationFailed),
		errors.Is(err, kerr.InvalidTopicException), errors.Is(err, kerr.UnknownTopicOrPartition),
		errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.UnsupportedVersion),
		errors.Is(err, kerr.InvalidTimestamp), // a clock is wrong, this machine's or the broker's
		errors.Is(err, kgo.ErrClientClosed):
		return fmt.Errorf("%w: %w", ErrFatal, err)
	case errors.Is(err, kerr.InvalidRecord), errors.Is(err, kerr.PolicyViolation), errors.Is(err, kerr.UnsupportedForMessageFormat):
		return fmt.Errorf("%w: %w", ErrRejected, err)
	}
	return fmt.Errorf("%w: %w", ErrTransient, err)
}
