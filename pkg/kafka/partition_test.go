package kafka

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

// lonely is a partition without a client, for what must hold between two steps that a test with a broker can't stop
// between. Its loop hands nothing out: the test does.
func lonely(t *testing.T) *partition {
	t.Helper()
	l, err := NewLoop(LoopConfig{Config: Config{Brokers: []string{"127.0.0.1:1"}}, Group: "g", Topics: []string{"t"},
		Handle: func(context.Context, *Task) {}})
	require.NoError(t, err)
	p := newPartition(l, TopicPartition{"t", 0})
	t.Cleanup(p.cancel)
	return p
}

func fetched(from, to int64) kgo.FetchTopicPartition {
	fp := kgo.FetchTopicPartition{Topic: "t"}
	for o := from; o < to; o++ {
		fp.Records = append(fp.Records, &kgo.Record{Topic: "t", Offset: o})
	}
	fp.HighWatermark = to
	return fp
}

// What an outstanding poll brings for a partition that has just been assigned may be from an earlier assignment.
func TestPartitionDropsWhatIsPolledBeforeItIsActive(t *testing.T) {
	t.Parallel()
	p := lonely(t)
	p.restore(5, -1, "")
	p.deliver(fetched(40, 50))
	from, dropped := p.activate()
	require.True(t, dropped, "it is to be sought back")
	require.EqualValues(t, 5, from.Offset)
	p.deliver(fetched(5, 7))
	require.EqualValues(t, 5, p.take().Record.Offset)
	require.EqualValues(t, 6, p.take().Record.Offset)
}

// Between a record's deferring and the seek back to it, a poll may bring what follows. Handing that out would make the
// deferred record a gap.
func TestPartitionDropsWhatIsPolledBeforeTheSeek(t *testing.T) {
	t.Parallel()
	p := lonely(t)
	p.restore(0, -1, "")
	p.activate()
	p.deliver(fetched(0, 10))
	p.take().Done()
	task := p.take()
	waited := make(chan bool)
	go func() { waited <- p.wait(task, time.Now().Add(holdAtMost+10*time.Millisecond)) }()
	for deferring := false; !deferring; {
		p.mu.Lock()
		deferring = p.deferring
		p.mu.Unlock()
	}
	p.deliver(fetched(10, 20))
	require.True(t, <-waited)
	p.deliver(fetched(20, 30))
	p.rewound(1)
	p.deliver(fetched(1, 30))
	for o := int64(1); o < 30; o++ {
		task := p.take()
		require.Equal(t, o, task.Record.Offset)
		task.Done()
	}
	require.EqualValues(t, 30, p.window.Watermark())
}

// Work of a log that was cut does not complete offsets of the one that took its place.
func TestPartitionRestartVoidsOldWork(t *testing.T) {
	t.Parallel()
	p := lonely(t)
	p.restore(0, -1, "")
	p.activate()
	p.deliver(fetched(0, 10))
	old := []*Task{p.take(), p.take(), p.take()}
	p.deliver(fetched(0, 3))
	first := p.take()
	require.EqualValues(t, 0, first.Record.Offset)
	for _, task := range old {
		task.Done()
	}
	require.EqualValues(t, 0, p.window.Watermark())
	require.EqualValues(t, 1, p.inflight)
	first.Done()
	require.EqualValues(t, 1, p.window.Watermark())
	c, ok := p.snapshot()
	require.True(t, ok)
	require.EqualValues(t, 1, c.offset)
}

// A commit carries the leader epoch of the record below it, not of the newest one read.
func TestPartitionCommitEpoch(t *testing.T) {
	t.Parallel()
	p := lonely(t)
	p.restore(0, -1, "")
	p.activate()
	batch := fetched(0, 6)
	for i, r := range batch.Records {
		r.LeaderEpoch = int32(3 + i/4)
	}
	p.deliver(batch)
	later := fetched(6, 8)
	for _, r := range later.Records {
		r.LeaderEpoch = 9
	}
	p.deliver(later)
	for _, want := range []int32{3, 3, 3, 3, 4, 4, 9, 9} {
		p.take().Done()
		c, ok := p.snapshot()
		require.True(t, ok)
		require.Equal(t, want, c.epoch, c.offset)
		p.commitSucceeded(c)
		_, ok = p.snapshot()
		require.False(t, ok, "nothing is new")
	}
}
