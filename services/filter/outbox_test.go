package filter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
)

// broker takes records by a rule, one after the other, and answers from another goroutine as the client does.
type broker struct {
	mu     sync.Mutex
	taken  []string
	tries  map[string]int
	answer func(value string, try int) error
	queue  chan func()
}

func newBroker(t *testing.T, answer func(value string, try int) error) *broker {
	b := &broker{answer: answer, tries: map[string]int{}, queue: make(chan func(), 1000)}
	var group sync.WaitGroup
	group.Go(func() {
		for f := range b.queue {
			f()
		}
	})
	t.Cleanup(func() {
		close(b.queue)
		group.Wait()
	})
	return b
}

func (b *broker) write(_ context.Context, r *kgo.Record, done func(error)) {
	value := string(r.Value)
	b.queue <- func() {
		b.mu.Lock()
		b.tries[value]++
		err := b.answer(value, b.tries[value])
		if err == nil {
			b.taken = append(b.taken, value)
		}
		b.mu.Unlock()
		done(err)
	}
}

type fakeTask struct {
	ctx  context.Context
	done chan struct{}
}

func (t *fakeTask) Context() context.Context { return t.ctx }
func (t *fakeTask) Done()                    { close(t.done) }

func newOutbox(t *testing.T, b *broker) *outbox {
	t.Helper()
	metrics, err := newMetrics(noopmetric.NewMeterProvider(), nil, func() int { return 0 })
	require.NoError(t, err)
	return &outbox{log: zap.NewNop(), metrics: metrics, write: b.write, fit: func(*kgo.Record, *work, error) *kgo.Record { return nil }}
}

func send(ctx context.Context, o *outbox, p *partition, values ...string) *fakeTask {
	task := &fakeTask{ctx: ctx, done: make(chan struct{})}
	w := &work{task: task, part: p}
	w.pending.Store(1)
	batch := o.batch(0)
	for _, v := range values {
		value := batch.text(v)
		batch.records = append(batch.records, kgo.Record{Value: value})
	}
	o.send(w, batch)
	w.release()
	return task
}

func (t *fakeTask) isDone() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

var errTransient = fmt.Errorf("%w: not now", kafka.ErrTransient)

func TestAnOffsetCompletesAfterTheLastAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		b := newBroker(t, func(value string, _ int) error {
			if value == "c" {
				<-hold
			}
			return nil
		})
		o := newOutbox(t, b)
		p := &partition{}
		task := send(t.Context(), o, p, "a", "b", "c")
		none := send(t.Context(), o, p)
		assert.True(t, none.isDone(), "an event from which nothing follows is done at once")
		synctest.Wait()
		assert.False(t, task.isDone())
		close(hold)
		synctest.Wait()
		assert.True(t, task.isDone())
	})
}

// The client keeps a record that was sent once for as long as its broker is away: that must not hold up the end.
func TestALostPartitionWaitsForNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := make(chan struct{})
		b := newBroker(t, func(_ string, try int) error {
			if try > 1 {
				<-away
			}
			return errTransient
		})
		o := newOutbox(t, b)
		ctx, lost := context.WithCancel(t.Context())
		task := send(ctx, o, &partition{}, "a")
		time.Sleep(time.Minute) // of the bubble: the second try is under way
		lost()
		ended := make(chan struct{})
		go func() { o.retries.Wait(); close(ended) }()
		synctest.Wait()
		select {
		case <-ended:
		default:
			t.Error("the outbox waits for an answer that may never come")
		}
		close(away)
		<-ended
		assert.False(t, task.isDone())
	})
}

func TestWhatFailsIsTriedAgainInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, func(value string, try int) error {
			if (value == "b" || value == "c") && try < 4 {
				return errTransient
			}
			return nil
		})
		o := newOutbox(t, b)
		p := &partition{}
		first := send(t.Context(), o, p, "a", "b", "c", "d")
		synctest.Wait()
		assert.False(t, first.isDone())

		waited := make(chan error, 1)
		go func() { waited <- p.settle(t.Context()) }()
		synctest.Wait()
		assert.Empty(t, waited, "the handler takes nothing new meanwhile")
		require.NoError(t, <-waited)
		second := send(t.Context(), o, p, "e")
		o.retries.Wait()
		synctest.Wait()
		assert.True(t, first.isDone())
		assert.True(t, second.isDone())
		assert.Equal(t, []string{"a", "d", "b", "c", "e"}, b.taken)
		assert.NoError(t, p.settle(t.Context()))
	})
}

func TestALostPartitionGivesUpItsRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, func(string, int) error { return errTransient })
		o := newOutbox(t, b)
		p := &partition{}
		ctx, lose := context.WithCancel(t.Context())
		task := send(ctx, o, p, "a", "b")
		time.Sleep(time.Minute) // of fake time
		synctest.Wait()
		assert.Greater(t, b.tries["a"], 10)
		assert.Equal(t, 1, b.tries["b"], "in order: not before a")
		lose()
		o.retries.Wait()
		assert.False(t, task.isDone(), "so its offset is not committed here")
	})
}

func TestATooLargeRecordIsMadeToFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, func(value string, _ int) error {
			if value == "big" || value == "dead letter" || value == "hopeless" {
				return fmt.Errorf("%w: %d bytes", kafka.ErrTooLarge, len(value))
			}
			return nil
		})
		o := newOutbox(t, b)
		smaller := map[string]string{"big": "dead letter", "dead letter": "shorter dead letter"}
		o.fit = func(r *kgo.Record, _ *work, _ error) *kgo.Record {
			if next := smaller[string(r.Value)]; next != "" {
				return &kgo.Record{Value: []byte(next)}
			}
			return nil
		}
		p := &partition{}
		task := send(t.Context(), o, p, "big", "ok", "hopeless")
		o.retries.Wait()
		synctest.Wait()
		assert.True(t, task.isDone(), "a record that cannot be written at all does not hold up its partition")
		assert.Equal(t, []string{"ok", "shorter dead letter"}, b.taken)
	})
}

// A delivery that its topic goes on refusing becomes its dead letter; any other record is tried until it is taken.
func TestADeliveryThatItsTopicRefusesBecomesADeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, func(value string, try int) error {
			if value == "delivery" || (value == "decision" && try < 50) || (value == "neighbour" && try < 3) {
				return fmt.Errorf("%w: a policy", kafka.ErrRejected)
			}
			return nil
		})
		o := newOutbox(t, b)
		o.fit = func(r *kgo.Record, _ *work, refused error) *kgo.Record {
			assert.ErrorIs(t, refused, kafka.ErrRejected)
			return &kgo.Record{Topic: topic.DeadLetters, Value: []byte("letter of the " + string(r.Value))}
		}
		task := &fakeTask{ctx: t.Context(), done: make(chan struct{})}
		w := &work{task: task, part: &partition{}}
		batch := o.batch(0)
		batch.records = append(batch.records,
			kgo.Record{Topic: topic.Decisions, Value: []byte("decision")},
			kgo.Record{Topic: topic.Lane(topic.DefaultLane), Value: []byte("delivery")},
			kgo.Record{Topic: topic.Lane(topic.DefaultLane), Value: []byte("neighbour")})
		w.pending.Store(1)
		o.send(w, batch)
		w.release()
		<-task.done
		assert.Equal(t, []string{"decision", "letter of the delivery", "neighbour"}, b.taken)
	})
}

func TestAHandlerStopsWaitingWhenItsPartitionGoes(t *testing.T) {
	p := &partition{settled: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, p.settle(ctx), context.Canceled)
}

func TestADeadLetterThatFits(t *testing.T) {
	d := newDecider(t)
	s := &Service{log: zap.NewNop(), codec: d.codec, metrics: d.metrics, decider: d}
	source := eventRecord(t, d, `{"id":"evt_1","type":"call.ended","call_id":"c-1","source":"dialer"}`)
	source.Offset = 7
	w := &work{record: source, task: &fakeTask{ctx: t.Context()}}
	delivery := &kgo.Record{Topic: topic.Lane("standard"), Key: []byte("sub_1"), Value: make([]byte, 5<<20), Headers: []kgo.RecordHeader{
		kafka.StringHeader(kafka.HeaderTenant, "acme"), kafka.StringHeader(kafka.HeaderID, "evt_1"), kafka.StringHeader(kafka.HeaderSubscription, "sub_1"),
		kafka.StringHeader(kafka.HeaderDelivery, "msg_1"), kafka.IntHeader(kafka.HeaderSubscriptionVersion, 4),
	}}
	fits := s.fit(delivery, w, kafka.ErrTooLarge)
	require.NotNil(t, fits)
	var letter event.DeadLetter
	require.NoError(t, d.codec.Decode(t.Context(), fits.Value, &letter))
	assert.Equal(t, []any{topic.DeadLetters, subscription.ReasonTooLarge, "sub_1", int64(4), "msg_1", "evt_1", "acme", source.Topic, int64(7)},
		[]any{fits.Topic, letter.Reason, letter.SubscriptionID, letter.SubscriptionVersion, letter.DeliveryID, letter.EventID, letter.Tenant, letter.SourceTopic, letter.SourceOffset})
	assert.Empty(t, letter.OriginalValue)
	assert.Less(t, len(fits.Value), smallLetter)

	big := &kgo.Record{Topic: topic.DeadLetters, Value: make([]byte, 9<<20), Headers: []kgo.RecordHeader{kafka.StringHeader(headerReason, deadPoison)}}
	fits = s.fit(big, w, kafka.ErrTooLarge)
	require.NotNil(t, fits)
	require.NoError(t, d.codec.Decode(t.Context(), fits.Value, &letter))
	assert.Equal(t, deadPoison, letter.Reason, "why it is dead stays")
	assert.Nil(t, s.fit(fits, w, kafka.ErrTooLarge), "nothing smaller is left")
}

func TestErrorsThatEndTheWaitAreNotUnusable(t *testing.T) {
	_, unusable := asUnusable(classify("x", fmt.Errorf("y: %w", event.ErrRegistry)))
	assert.False(t, unusable)
	_, unusable = asUnusable(classify("x", context.Canceled))
	assert.False(t, unusable)
	u, unusable := asUnusable(fmt.Errorf("z: %w", classify("x", event.ErrPoison)))
	require.True(t, unusable)
	assert.True(t, errors.Is(u, event.ErrPoison))
}
