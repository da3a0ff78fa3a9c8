package integration

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/test/progress"
)

const scalingPartitions = 8

// scaling is a pipeline whose dispatchers come and go under load.
type scaling struct {
	t       *testing.T
	p       *pipeline
	tn      tenant
	sub     string
	hook    *hooktest.Receiver
	release chan struct{} // closed when the endpoint is to answer what it holds
	ledger
}

// startScaling starts one dispatcher, and a subscription with deliveries on every partition. A fifth of them is taken at the
// second attempt, so that retries wait while partitions move.
func startScaling(t *testing.T) *scaling {
	t.Helper()
	p := startPipeline(t, settings{shape: apart, dispatchers: 1, env: map[string]string{
		"CALLSTREAM_PARTITIONS":     fmt.Sprint(scalingPartitions),
		"CALLSTREAM_REVOKE_TIMEOUT": "20s", // a process that waits for the processor repeats what it is answered too late
	}})
	s := &scaling{t: t, p: p, tn: p.tenant("scaling"), release: make(chan struct{}), ledger: ledger{accepted: map[string]bool{}}}
	s.hook = hooktest.Start(t, hooktest.Options{Answer: func(r *hooktest.Request) hooktest.Answer {
		if strings.HasPrefix(r.Header.Get("X-Event-Id"), "held") {
			select {
			case <-s.release:
			case <-t.Context().Done():
			}
		}
		if !tookAtOnce(r) {
			return hooktest.Answer{Status: http.StatusServiceUnavailable}
		}
		return hooktest.Answer{}
	}})
	sub := s.tn.subscribe(object{"url": s.hook.URL(), "events": []string{"call.*"}, "spread": scalingPartitions, "request": object{"timeout": "30s"}})
	s.sub = sub.ID
	s.hook.SetSecrets(sub.Secret)
	return s
}

// tookAtOnce says whether the endpoint takes an attempt.
func tookAtOnce(r *hooktest.Request) bool {
	id := r.Header.Get("X-Event-Id")
	return r.Attempt > 1 || !strings.HasSuffix(id, "3") && !strings.HasSuffix(id, "7")
}

// flowing posts events from four workers, numbered from first, until stop is called, which returns when each event has been
// accepted.
func (s *scaling) flowing(first int) (stop func()) {
	end := make(chan struct{})
	var workers sync.WaitGroup
	for w := range 4 {
		workers.Go(func() { s.flow(s.t, s.tn, first+w, end) })
	}
	return sync.OnceFunc(func() { close(end); workers.Wait() })
}

// hold posts an event for each partition that the endpoint holds, and waits until commits say that others are done which came
// after them.
func (s *scaling) hold() {
	s.t.Helper()
	calls := map[int32]bool{}
	for n := 0; len(calls) < scalingPartitions; n++ {
		call := fmt.Sprint("held-", n)
		if p := topic.PartitionFor(s.sub, call, scalingPartitions, scalingPartitions); !calls[p] {
			calls[p] = true
			s.add(s.tn.post(ended(call, object{"id": fmt.Sprintf("held-%d-", n)})))
		}
	}
	var held map[string]bool // by webhook-id
	var after []*hooktest.Request
	eventually(s.t, "the endpoint holds one of each partition, and takes others", func() error {
		held, after = map[string]bool{}, nil
		for _, r := range s.hook.Requests() {
			if strings.HasPrefix(r.Header.Get("X-Event-Id"), "held") {
				held[r.ID] = true
			} else if len(held) == scalingPartitions {
				after = append(after, r)
			}
		}
		if len(after) < 400 {
			return fmt.Errorf("%d are held, %d came after them", len(held), len(after))
		}
		return nil
	})
	eventually(s.t, "what came after them is done, say commits", func() error {
		open := map[string]bool{}
		for _, o := range s.unfinished() {
			open[o.Delivery] = true
		}
		for id := range held {
			require.True(s.t, open[id], "%s has no answer", id)
		}
		for _, r := range after {
			if open[r.ID] {
				return fmt.Errorf("%s is not done", r.ID)
			}
		}
		return nil
	})
}

// shared waits until these dispatchers have even shares of the partitions, and deliveries go on being made.
func (s *scaling) shared(names ...string) {
	s.t.Helper()
	for _, name := range names {
		url := s.p.url(name)
		eventually(s.t, fmt.Sprintf("%s has its share of %d", name, len(names)), func() error {
			has, err := metric(s.t.Context(), url, "callstream_consumer_partitions", topic.Lane(topic.DefaultLane))
			if err != nil {
				return err
			}
			if has != scalingPartitions/float64(len(names)) {
				return fmt.Errorf("it has %v of %d partitions", has, scalingPartitions)
			}
			return nil
		})
	}
	before := s.hook.Unique()
	eventually(s.t, "deliveries go on", func() error {
		if more := s.hook.Unique() - before; more < 400 {
			return fmt.Errorf("%d of 400", more)
		}
		return nil
	})
}

// settled waits until every accepted event is delivered, and every record done.
func (s *scaling) settled() {
	s.t.Helper()
	s.settle(s.t, s.hook, tookAtOnce)
	eventually(s.t, "nothing is left to be sent", func() error {
		if open := s.unfinished(); len(open) > 0 {
			return fmt.Errorf("%d records are not done, among them %v", len(open), open[0])
		}
		return nil
	})
}

func (s *scaling) unfinished() []progress.Open {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	open, err := progress.Unfinished(ctx, s.p.brokers)
	require.NoError(s.t, err)
	return open
}

// P-03, promises 1 and 3: one dispatcher, four, two, under load. Who comes, or goes on SIGTERM, loses nothing and repeats nothing.
// Then one of the two is killed: what is sent twice is only what no commit had as done, though all of it stands behind
// deliveries that have no answer yet.
func TestDispatchersComeAndGo(t *testing.T) {
	s := startScaling(t)
	stop := s.flowing(0)
	defer stop()
	s.shared("dispatcher-0")
	for _, name := range []string{"dispatcher-1", "dispatcher-2", "dispatcher-3"} {
		s.p.launch(name)
	}
	s.shared("dispatcher-0", "dispatcher-1", "dispatcher-2", "dispatcher-3")
	over := make(chan error, 2)
	for _, name := range []string{"dispatcher-0", "dispatcher-2"} {
		go func() { over <- s.p.terminate(name) }()
	}
	require.NoError(t, errors.Join(<-over, <-over), "they end with status 0")
	s.shared("dispatcher-1", "dispatcher-3")
	stop()
	s.settled()
	require.Empty(t, progress.Repeated(s.hook.Requests()))

	stop = s.flowing(4)
	defer stop()
	s.hold()
	s.p.process("dispatcher-3").Kill()
	open := map[string]bool{}
	for _, o := range s.unfinished() {
		open[o.Delivery] = true
	}
	s.shared("dispatcher-1")
	close(s.release)
	stop()
	s.settled()
	repeated := progress.Repeated(s.hook.Requests())
	t.Logf("%d events accepted; of %d deliveries that were not done at the kill %d were sent again", len(s.ids()), len(open), len(repeated))
	for _, a := range repeated {
		require.True(t, open[a.Delivery], "a commit said that %v was done, and it was sent again", a)
	}
}
