package console

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/schemas/topic"
)

const (
	// recentRecords and recentBytes bound the newest records that are kept, so that who begins to look is shown at once what
	// the history doesn't have yet.
	recentRecords, recentBytes = 2000, 8 << 20
	// behindBy is how many records may wait for the reader of a stream before it is ended. Who reads so slowly comes back,
	// and is sent the rest from the history.
	behindBy = 64
	// defaultStreams is how many streams there may be at once where the configuration doesn't say.
	defaultStreams = 1000
)

// errStreams means that there are as many streams as may be.
var errStreams = errors.New("too many streams are open")

// responseTail reads the topic of captured answers from its end, once for all streams, and hands each record to those who
// look at its call.
type responseTail struct {
	cfg  kafka.Config
	log  *zap.Logger
	most int

	mu      sync.Mutex
	began   map[int32]int64 // from where on all records are in recent, by partition; nil until it is known where the topic ends
	recent  []*kgo.Record   // in the order in which they came
	bytes   int
	streams map[string]map[*responseStream]struct{} // by the key of their call's records
	count   int
	tenants map[string]int
}

// responseStream is one reader of a call's answers.
type responseStream struct {
	tail    *responseTail
	tenant  string
	key     string
	records chan *kgo.Record // closed when the reader is too slow, or the tail ends
}

func newResponseTail(cfg kafka.Config, log *zap.Logger, most int) *responseTail {
	if most <= 0 {
		most = defaultStreams
	}
	return &responseTail{cfg: cfg, log: log, most: most, streams: map[string]map[*responseStream]struct{}{}, tenants: map[string]int{}}
}

// run reads until ctx ends; what fails is tried again.
func (t *responseTail) run(ctx context.Context) error {
	defer t.end()
	for tries := 0; ctx.Err() == nil; tries++ {
		if err := t.read(ctx); err != nil && ctx.Err() == nil {
			if tries == 0 {
				t.log.Warn("captured answers can't be streamed yet, trying again", zap.Error(err))
			}
			if run.Sleep(ctx, time.Second) != nil {
				break
			}
		}
	}
	return nil
}

// read finds out where the topic ends, and reads from there.
func (t *responseTail) read(ctx context.Context) error {
	opts, err := t.cfg.Options(t.log)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	defer client.Close()
	asking, cancel := context.WithTimeout(ctx, 10*time.Second)
	ends, err := kadm.NewClient(client).ListEndOffsets(asking, topic.Responses)
	cancel()
	if err != nil {
		return fmt.Errorf("list end offsets: %w", err)
	}
	began, from := map[int32]int64{}, map[int32]kgo.Offset{}
	for partition, end := range ends[topic.Responses] {
		if end.Err != nil {
			return fmt.Errorf("list end offsets: %w", end.Err)
		}
		began[partition], from[partition] = end.Offset, kgo.NewOffset().At(end.Offset)
	}
	if len(began) == 0 {
		return fmt.Errorf("the topic %s is not there", topic.Responses)
	}
	client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic.Responses: from})
	t.mu.Lock()
	t.began = began
	t.mu.Unlock()
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		fetches.EachError(func(_ string, partition int32, err error) {
			t.log.Warn("captured answers: read", zap.Int32("partition", partition), zap.Error(err))
		})
		fetches.EachRecord(t.take)
	}
}

// take keeps a record, and hands it to those who look at its call.
func (t *responseTail) take(r *kgo.Record) {
	// A copy: the record would keep the whole fetch in memory.
	r = &kgo.Record{Key: slices.Clone(r.Key), Value: slices.Clone(r.Value), Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.recent, t.bytes = append(t.recent, r), t.bytes+len(r.Value)
	drop := 0
	for ; len(t.recent)-drop > recentRecords || t.bytes > recentBytes; drop++ {
		old := t.recent[drop]
		t.bytes -= len(old.Value)
		t.began[old.Partition] = old.Offset + 1
		t.recent[drop] = nil
	}
	t.recent = t.recent[drop:]
	for s := range t.streams[string(r.Key)] {
		select {
		case s.records <- r:
		default:
			t.drop(s)
		}
	}
}

// recently returns the newest records of a tenant's call, and from where on there are all of them, by partition: what is
// older is for the history to tell. It is nil while that is not known.
func (t *responseTail) recently(tenant, call string) ([]*kgo.Record, map[int32]int64) {
	if t == nil {
		return nil, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.of(string(topic.EventKey(tenant, call)))
}

func (t *responseTail) of(key string) ([]*kgo.Record, map[int32]int64) {
	var found []*kgo.Record
	for _, r := range t.recent {
		if string(r.Key) == key {
			found = append(found, r)
		}
	}
	began := make(map[int32]int64, len(t.began))
	for partition, offset := range t.began {
		began[partition] = offset
	}
	return found, began
}

var errNoTail = errors.New("the topic of captured answers can't be read yet")

// join adds a reader of a call's answers, and returns what recently would at that moment. Its error is errStreams, or
// errNoTail.
func (t *responseTail) join(tenant, call string) (*responseStream, []*kgo.Record, map[int32]int64, error) {
	if t == nil {
		return nil, nil, nil, errNoTail
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.began == nil:
		return nil, nil, nil, errNoTail
	case t.count >= t.most, t.tenants[tenant] >= max(t.most/2, 1): // no tenant takes them all
		return nil, nil, nil, errStreams
	}
	s := &responseStream{tail: t, tenant: tenant, key: string(topic.EventKey(tenant, call)), records: make(chan *kgo.Record, behindBy)}
	if t.streams[s.key] == nil {
		t.streams[s.key] = map[*responseStream]struct{}{}
	}
	t.streams[s.key][s] = struct{}{}
	t.count++
	t.tenants[tenant]++
	found, began := t.of(s.key)
	return s, found, began, nil
}

// leave ends the reader.
func (s *responseStream) leave() {
	s.tail.mu.Lock()
	defer s.tail.mu.Unlock()
	s.tail.drop(s)
}

func (t *responseTail) drop(s *responseStream) {
	if _, there := t.streams[s.key][s]; !there {
		return
	}
	delete(t.streams[s.key], s)
	if len(t.streams[s.key]) == 0 {
		delete(t.streams, s.key)
	}
	t.count--
	if t.tenants[s.tenant]--; t.tenants[s.tenant] == 0 {
		delete(t.tenants, s.tenant)
	}
	close(s.records)
}

// end ends all readers, and takes no more.
func (t *responseTail) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.began = nil
	for _, streams := range t.streams {
		for s := range streams {
			t.drop(s)
		}
	}
}
