package filter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"go.uber.org/zap"

	"github.com/callstream/callstream/schemas/topic"
)

// lane is where the deliveries of a lane go.
type lane struct {
	topic      string
	partitions int
}

// lanes knows the delivery topics that exist. How many partitions they have is read from the brokers, not configured: a
// delivery in the wrong partition would break the order and the limits of its subscription.
type lanes struct {
	log  *zap.Logger
	list func(ctx context.Context) (map[string]lane, error)
	now  func() time.Time

	known  atomic.Pointer[map[string]lane]
	mu     sync.Mutex
	looked time.Time // when the brokers were last asked for a lane that is not known
}

// lookEvery bounds how often the brokers are asked for a lane that does not exist.
const lookEvery = 10 * time.Second

var errNoLane = errors.New("the topic " + topic.Lane(topic.DefaultLane) + " does not exist")

// load asks the brokers. It fails while the default lane does not exist.
func (l *lanes) load(ctx context.Context) error {
	known, err := l.list(ctx)
	if err != nil {
		return fmt.Errorf("list the delivery topics: %w", err)
	}
	if known[topic.DefaultLane].partitions == 0 {
		return errNoLane
	}
	l.known.Store(&known)
	return nil
}

// find returns a lane's topic and partition count. Deliveries for a lane whose topic nobody has made go to the default
// lane: late is worse than elsewhere, and a record that no topic takes would hold up its whole partition.
func (l *lanes) find(ctx context.Context, name string) (string, int) {
	found, ok := (*l.known.Load())[name]
	if !ok {
		found = l.look(ctx, name)
	}
	return found.topic, found.partitions
}

func (l *lanes) look(ctx context.Context, name string) lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	if found, ok := (*l.known.Load())[name]; ok {
		return found
	}
	if l.looked.IsZero() || l.now().Sub(l.looked) >= lookEvery {
		l.looked = l.now()
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := l.load(ctx); err != nil {
			l.log.Warn("look for a delivery lane", zap.String("lane", name), zap.Error(err))
		}
		if found, ok := (*l.known.Load())[name]; ok {
			return found
		}
		l.log.Warn("there is no topic for the delivery lane: its deliveries go to the default one", zap.String("lane", name))
	}
	return (*l.known.Load())[topic.DefaultLane]
}

// isLane says whether a topic is a lane that a subscription may name. Retry tiers, whose names have a further dot, and the
// topics that only dispatchers write deliveries to are none.
func isLane(name string) bool {
	lane, ok := strings.CutPrefix(name, topic.Lane(""))
	if !ok || strings.Contains(lane, ".") || name == topic.Slow || name == topic.Ordered {
		return false
	}
	schema, ok := topic.SchemaOf(name)
	return ok && schema == topic.DeliverySchema
}

// listLanes lists the delivery topics of a cluster by lane.
func listLanes(adm *kadm.Client) func(ctx context.Context) (map[string]lane, error) {
	return func(ctx context.Context) (map[string]lane, error) {
		details, err := adm.ListTopics(ctx)
		if err != nil {
			return nil, fmt.Errorf("ask for metadata: %w", err)
		}
		known := make(map[string]lane)
		prefix := topic.Lane("")
		for _, d := range details {
			name := strings.TrimPrefix(d.Topic, prefix)
			if isLane(d.Topic) && d.Err == nil && len(d.Partitions) > 0 {
				known[name] = lane{topic: d.Topic, partitions: len(d.Partitions)}
			}
		}
		return known, nil
	}
}
