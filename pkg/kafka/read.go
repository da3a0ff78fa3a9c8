package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/run"
)

// Errors of a Reader about a place.
var (
	// ErrGone means that retention took the record, or its topic or partition no longer exists.
	ErrGone = errors.New("the record is no longer in Kafka")
	// ErrNoRecord means that there is no record at the place: it is beyond the partition's end, belongs to a transaction
	// that was not committed, or is the marker of one.
	ErrNoRecord = errors.New("there is no record at this place")
	// ErrUnreadable means that the partition's leader is there and does not hand out what can be read: it refuses, or what
	// it sends is damaged. That lasts until somebody mends it, if anybody can.
	ErrUnreadable = errors.New("the record can't be read")
)

// Place is where a record stands.
type Place struct {
	Topic     string
	Partition int32
	Offset    int64
}

// String writes the place as "topic/partition/offset".
func (p Place) String() string { return fmt.Sprintf("%s/%d/%d", p.Topic, p.Partition, p.Offset) }

const (
	// readBytes is what one request of a Reader asks for. A batch that is larger comes whole all the same.
	readBytes = 256 << 10
	// readTime bounds the wait for a broker that doesn't answer, for each run of places.
	readTime = 10 * time.Second
)

// Reader reads single records by their places, for those who were given pointers into the log. It keeps no position and
// joins no group; its methods may be called from several goroutines.
type Reader struct {
	client *kgo.Client
	admin  *kadm.Client
}

// NewReader makes a reader; it connects when it is first asked.
func NewReader(cfg Config, log *zap.Logger) (*Reader, error) {
	opts, err := cfg.Options(log)
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("make a client to read records: %w", err)
	}
	return &Reader{client: client, admin: kadm.NewClient(client)}, nil
}

// Close disconnects.
func (r *Reader) Close() { r.client.Close() }

// Record returns the record at a place. Its error wraps ErrGone or ErrNoRecord where there is none to be had, and
// ErrUnreadable where no retry will help before somebody does; every other one is worth a retry.
func (r *Reader) Record(ctx context.Context, at Place) (*kgo.Record, error) {
	var record *kgo.Record
	var failed error
	r.Records(ctx, []Place{at}, func(_ int, got *kgo.Record, err error) { record, failed = got, err })
	return record, failed
}

// Records reads the records at many places and calls each once for every one of them, with its index in places and the
// record or the error that Record would return. Neighbours are read together, so the calls come in the order of the log,
// partition by partition, not in that of places.
func (r *Reader) Records(ctx context.Context, places []Place, each func(i int, record *kgo.Record, err error)) {
	order := make([]int, len(places))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		p, q := places[a], places[b]
		return cmp.Or(cmp.Compare(p.Topic, q.Topic), cmp.Compare(p.Partition, q.Partition), cmp.Compare(p.Offset, q.Offset))
	})
	for len(order) > 0 {
		first := places[order[0]]
		batch, err := r.fetch(ctx, first)
		rest := order
		for len(rest) > 0 {
			p := places[rest[0]]
			if p.Topic != first.Topic || p.Partition != first.Partition || p.Offset >= max(batch.next, first.Offset+1) {
				break
			}
			record, failed := batch.at(p.Offset), err
			if record == nil && failed == nil {
				failed = ErrNoRecord
			}
			if failed != nil {
				record, failed = nil, fmt.Errorf("read %s: %w", p, failed)
			}
			each(rest[0], record, failed)
			rest = rest[1:]
		}
		order = rest
	}
}

// stretch is the records of a partition from a place on, and the offset behind the last that was looked at.
type stretch struct {
	records []*kgo.Record
	next    int64
}

func (f stretch) at(offset int64) *kgo.Record {
	i, ok := slices.BinarySearchFunc(f.records, offset, func(r *kgo.Record, o int64) int { return cmp.Compare(r.Offset, o) })
	if !ok || f.records[i].Attrs.IsControl() {
		return nil
	}
	return f.records[i]
}

// fetch reads once from a place on. While the partition's leader moves or its broker is away, it tries again.
func (r *Reader) fetch(ctx context.Context, from Place) (stretch, error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	ask := ctx
	for tries := 1; ; tries++ {
		batch, err := r.fetchOnce(ask, from)
		if err == nil || errors.Is(err, ErrGone) || !again(err) {
			return batch, err
		}
		if ended := run.Sleep(ctx, backoff(tries)); ended != nil {
			return stretch{}, errors.Join(err, ended)
		}
		ask = kadm.WithAuthorizedOps(ctx) // past the client's cache of metadata
	}
}

// again says whether an error may be gone at the next try.
func again(err error) bool {
	return errors.Is(err, errNotYet) || kerr.IsRetriable(err) || kgo.IsRetryableBrokerErr(err)
}

// unreadable marks an answer about a partition that won't be another one soon. A broker whose disk is damaged calls that
// worth a retry.
func unreadable(err error) error {
	if kerr.IsRetriable(err) && !errors.Is(err, kerr.CorruptMessage) && !errors.Is(err, kerr.KafkaStorageError) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnreadable, err)
}

func (r *Reader) fetchOnce(ctx context.Context, from Place) (stretch, error) {
	topics, err := r.admin.ListTopics(ctx, from.Topic)
	if err != nil {
		return stretch{}, fmt.Errorf("find the leader: %w", err)
	}
	detail := topics[from.Topic]
	partition, ok := detail.Partitions[from.Partition]
	switch {
	case errors.Is(detail.Err, kerr.UnknownTopicOrPartition), detail.Err == nil && !ok:
		return stretch{}, ErrGone
	case detail.Err != nil:
		return stretch{}, fmt.Errorf("find the leader: %w", unreadable(detail.Err))
	case partition.Leader < 0:
		return stretch{}, fmt.Errorf("find the leader: %w", kerr.LeaderNotAvailable)
	}

	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.IsolationLevel = 0, 0, readBytes, 1
	t, p := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	t.Topic, t.TopicID = from.Topic, detail.ID
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = from.Partition, from.Offset, readBytes
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	answer, err := r.client.Broker(int(partition.Leader)).RetriableRequest(ctx, req)
	if err != nil {
		return stretch{}, err
	}
	resp, ok := answer.(*kmsg.FetchResponse)
	if !ok {
		return stretch{}, errFetchAnswer
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return stretch{}, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return stretch{}, errFetchAnswer
	}
	read, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		KeepControlRecords: true, Offset: from.Offset, IsolationLevel: kgo.ReadCommitted(), Topic: from.Topic, Partition: from.Partition,
	}, &resp.Topics[0].Partitions[0], kgo.DefaultDecompressor(), nil)
	switch {
	case errors.Is(read.Err, kerr.OffsetOutOfRange):
		return r.outOfRange(ctx, from)
	case read.Err != nil && len(read.Records) == 0: // what came before a damaged batch is whole
		return stretch{}, unreadable(read.Err)
	case len(read.Records) == 0 && next <= from.Offset && read.LastStableOffset <= from.Offset:
		return r.beyondEnd(ctx, from)
	}
	return stretch{records: read.Records, next: next}, nil
}

// beyondEnd tells a place that nothing was written to from one that the leader does not hand out yet: a new leader learns
// only after a while how far the others have followed, and answers until then as if the log ended earlier. Asked for the
// end, it says that it doesn't know (KIP-207).
func (r *Reader) beyondEnd(ctx context.Context, from Place) (stretch, error) {
	ends, err := r.admin.ListEndOffsets(ctx, from.Topic)
	if err != nil {
		return stretch{}, fmt.Errorf("find the partition's end: %w", err)
	}
	end, ok := ends.Lookup(from.Topic, from.Partition)
	switch {
	case !ok:
		return stretch{}, ErrGone
	case end.Err != nil:
		return stretch{}, fmt.Errorf("find the partition's end: %w", end.Err)
	case from.Offset < end.Offset:
		return stretch{}, errNotYet
	}
	return stretch{}, nil
}

// outOfRange tells what retention took from what is yet to come: a broker's answer says only that it has neither.
func (r *Reader) outOfRange(ctx context.Context, from Place) (stretch, error) {
	starts, err := r.admin.ListStartOffsets(ctx, from.Topic)
	if err != nil {
		return stretch{}, fmt.Errorf("find the partition's start: %w", err)
	}
	start, ok := starts.Lookup(from.Topic, from.Partition)
	switch {
	case !ok:
		return stretch{}, ErrGone
	case start.Err != nil:
		return stretch{}, fmt.Errorf("find the partition's start: %w", start.Err)
	case from.Offset < start.Offset:
		return stretch{}, ErrGone
	}
	return stretch{}, nil
}

var errNotYet = errors.New("the partition's leader does not hand out the record yet")

var errFetchAnswer = errors.New("a broker's answer is not to what was asked")
