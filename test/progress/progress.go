// Package progress tells what was sent twice, and how far the dispatchers had come by their commits: what may be.
package progress

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// group is the consumer group of all dispatchers.
const group = "callstream-dispatcher"

// Attempt is one attempt of a delivery: what an endpoint gets once, unless a dispatcher is killed.
type Attempt struct {
	Delivery string // webhook-id
	Number   int    // webhook-attempt, from 1
}

// Repeated returns the attempts of which an endpoint got more than one request, one for each request too many.
func Repeated(requests []*hooktest.Request) (all []Attempt) {
	seen := map[Attempt]bool{}
	for _, r := range requests {
		a := Attempt{r.ID, r.Attempt}
		if seen[a] {
			all = append(all, a)
		}
		seen[a] = true
	}
	return all
}

// Open is a record that no commit of the dispatchers says is done: a successor takes it up.
type Open struct {
	Attempt // the next of its delivery
	Where   kafka.TopicPartition
}

// Unfinished returns the records of every delivery topic that no commit says are done. It asks for the commits first and for
// the logs' ends after that, so nothing that was open when it was called is missing, as long as nobody commits meanwhile.
func Unfinished(ctx context.Context, brokers []string) ([]Open, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.DisableClientMetrics())
	if err != nil {
		return nil, fmt.Errorf("read the dispatchers' progress: %w", err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	commits, err := admin.FetchOffsets(ctx, group)
	if err != nil {
		return nil, fmt.Errorf("read the dispatchers' commits: %w", err)
	}
	topics, err := admin.ListTopics(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the delivery topics: %w", err)
	}
	var names []string
	for _, name := range topics.Names() {
		if schema, _ := topic.SchemaOf(name); schema == topic.DeliverySchema {
			names = append(names, name)
		}
	}
	starts, err1 := admin.ListStartOffsets(ctx, names...)
	ends, err2 := admin.ListEndOffsets(ctx, names...)
	if err := errors.Join(err1, err2, starts.Error(), ends.Error()); err != nil {
		return nil, fmt.Errorf("list the offsets of the delivery topics: %w", err)
	}

	// done tells what the commits say, one window for each partition with something beyond its offset.
	done := map[kafka.TopicPartition]*kafka.Window{}
	left := map[kafka.TopicPartition]int64{} // the ends that are still to be reached
	from := map[string]map[int32]kgo.Offset{}
	ends.Each(func(end kadm.ListedOffset) {
		start, _ := starts.Lookup(end.Topic, end.Partition)
		at, metadata := start.Offset, ""
		if c, ok := commits.Lookup(end.Topic, end.Partition); ok && c.At > at {
			at, metadata = c.At, c.Metadata
		}
		if at >= end.Offset {
			return
		}
		tp := kafka.TopicPartition{Topic: end.Topic, Partition: end.Partition}
		done[tp], left[tp] = kafka.NewWindow(kafka.MaxWindow), end.Offset
		done[tp].Restore(at, metadata)
		if from[tp.Topic] == nil {
			from[tp.Topic] = map[int32]kgo.Offset{}
		}
		from[tp.Topic][tp.Partition] = kgo.NewOffset().At(at)
	})
	if len(left) == 0 {
		return nil, nil
	}
	client.AddConsumePartitions(from)
	var open []Open
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("read the deliveries that are not done: %w", err)
		}
		var wrong error
		fetches.EachRecord(func(r *kgo.Record) {
			tp := kafka.TopicPartition{Topic: r.Topic, Partition: r.Partition}
			end, ok := left[tp]
			if !ok || r.Offset >= end {
				return
			}
			if r.Offset == end-1 {
				delete(left, tp)
			}
			w := done[tp]
			if w.Take(r.Offset) != kafka.TakenNow {
				return
			}
			w.Done(r.Offset) // or the window would fill
			made, err := strconv.Atoi(kafka.Header(r, kafka.HeaderAttempt))
			if kafka.Header(r, kafka.HeaderAttempt) != "" && err != nil {
				wrong = fmt.Errorf("%s/%d: %w", tp, r.Offset, err)
			}
			open = append(open, Open{Attempt{kafka.Header(r, kafka.HeaderDelivery), made + 1}, tp})
		})
		if wrong != nil {
			return nil, wrong
		}
	}
	return open, nil
}
