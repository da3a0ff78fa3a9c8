package producer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/callstream/callstream/pkg/config"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
)

// Outages are told in fake time, on a broker whose network is in memory: seconds of waiting pass at once and exactly.

// schemas is a registry in memory; while down is set it can't be reached.
type schemas struct {
	mu   sync.Mutex
	ids  map[string]int
	down bool
}

func (r *schemas) Register(_ context.Context, subject, _ string) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return 0, errors.New("connection refused")
	}
	if r.ids == nil {
		r.ids = map[string]int{}
	}
	if r.ids[subject] == 0 {
		r.ids[subject] = len(r.ids) + 1
	}
	return r.ids[subject], nil
}

func (r *schemas) SchemaByID(context.Context, int) (string, error) {
	return "", errors.New("nobody asks for one here")
}

func (r *schemas) reachable(yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = !yes
}

// outage is a producer inside a bubble of fake time.
type outage struct {
	t        *testing.T
	cluster  *kfake.Cluster
	registry *schemas
	service  *Service
	stop     context.CancelFunc
	ended    chan error
}

// inBubble runs test with a producer that is ready.
func inBubble(t *testing.T, change func(*Config), test func(o *outage)) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage(t, &schemas{}, change)
		for o.service.Ready() != nil {
			time.Sleep(10 * time.Millisecond)
		}
		test(o)
		o.stop()
		require.NoError(t, <-o.ended)
		require.Zero(t, o.service.budget.used.Load(), "everything taken of the budget came back")
		require.Zero(t, o.service.outstanding.Load())
	})
}

func newOutage(t *testing.T, registry *schemas, change func(*Config)) *outage {
	var network kfake.VirtualNetwork
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ListenFn(network.Listen), kfake.SeedTopics(2, topic.Events()...))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	var cfg Config
	require.NoError(t, config.Load(&cfg, config.Source{Args: []string{"--auth=off", "--kafka-brokers=" + strings.Join(cluster.ListenAddrs(), ",")}}))
	if change != nil {
		change(&cfg)
	}
	o := &outage{t: t, cluster: cluster, registry: registry, ended: make(chan error, 1)}
	o.service, err = New(cfg, Deps{Telemetry: telemetry.Nop(), Codec: event.NewCodec(o.registry), client: []kgo.Opt{kgo.Dialer(network.DialContext)}})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	o.stop = stop
	go func() { o.ended <- o.service.Run(ctx) }()
	return o
}

// answer is what a request got, and the fake time that it took.
type answer struct {
	status int
	header http.Header
	detail string
	ids    []string
	took   time.Duration
}

func (o *outage) post(body string) answer { return o.postUntil(o.t.Context(), body) }

// postUntil posts for a caller that goes away when ctx ends.
func (o *outage) postUntil(ctx context.Context, body string) answer {
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/v1/events", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	began := time.Now()
	o.service.Handler().ServeHTTP(w, r)
	a := answer{status: w.Code, header: w.Result().Header, took: time.Since(began)} //nolint:bodyclose // a recorder's
	var doc struct {
		Detail string
		IDs    []string
	}
	if w.Body.Len() > 0 {
		require.NoError(o.t, json.Unmarshal(w.Body.Bytes(), &doc), w.Body.String())
	}
	a.detail, a.ids = doc.Detail, doc.IDs
	return a
}

// swallow makes the broker take produce requests and not answer them, until the returned function is called.
func (o *outage) swallow() (release func()) {
	gate := make(chan struct{})
	o.cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		o.cluster.KeepControl()
		o.cluster.SleepControl(func() { <-gate })
		return nil, nil, false
	})
	return sync.OnceFunc(func() { close(gate) })
}

func (o *outage) records() int64 {
	n := int64(0)
	for _, name := range topic.Events() {
		for _, p := range o.cluster.PartitionInfos(name) {
			n += p.HighWatermark
		}
	}
	return n
}

const one = `{"id":"e-1","type":"call.started","call_id":"c"}`

func TestKafkaThatAnswersNothing(t *testing.T) {
	inBubble(t, nil, func(o *outage) {
		release := o.swallow()
		a := o.post(`[` + one + `,{"type":"call.ended","call_id":"c"}]`)
		require.Equal(t, http.StatusServiceUnavailable, a.status)
		require.LessOrEqual(t, a.took, 10*time.Second)
		require.Equal(t, 8*time.Second, a.took)
		require.Len(t, a.ids, 2, "the ids of all events are named")
		require.Equal(t, "e-1", a.ids[0])
		require.NotEmpty(t, a.ids[1])
		require.Contains(t, a.detail, "repeating them under these ids is safe")
		require.NotEmpty(t, a.header.Get("Retry-After"))

		release()
		again := o.post(`[` + one + `,{"id":"` + a.ids[1] + `","type":"call.ended","call_id":"c"}]`)
		require.Equal(t, http.StatusAccepted, again.status)
		require.Equal(t, a.ids, again.ids)
	})
}

func TestKafkaThatIsGone(t *testing.T) {
	inBubble(t, nil, func(o *outage) {
		o.cluster.Close()
		a := o.post(one)
		require.Equal(t, http.StatusServiceUnavailable, a.status)
		require.LessOrEqual(t, a.took, 10*time.Second)
		require.Equal(t, []string{"e-1"}, a.ids)
		time.Sleep(6 * time.Second)
		require.ErrorContains(t, o.service.Ready(), "Kafka")
	})
}

func TestKafkaThatComesBackInTime(t *testing.T) {
	inBubble(t, nil, func(o *outage) {
		release := o.swallow()
		time.AfterFunc(2*time.Second, release)
		a := o.post(one)
		require.Equal(t, http.StatusAccepted, a.status, a.detail)
		require.GreaterOrEqual(t, a.took, 2*time.Second)
		require.Equal(t, int64(1), o.records())
	})
}

func TestRefusalsOfTheBroker(t *testing.T) {
	for _, c := range []struct {
		err     *kerr.Error
		status  int
		unready bool // not for what one event may be the cause of
	}{
		{kerr.MessageTooLarge, http.StatusInternalServerError, false},
		{kerr.TopicAuthorizationFailed, http.StatusServiceUnavailable, false},
		{kerr.NotEnoughReplicas, http.StatusServiceUnavailable, true},
		{kerr.InvalidRecord, http.StatusServiceUnavailable, false},
	} {
		t.Run(c.err.Message, func(t *testing.T) {
			inBubble(t, nil, func(o *outage) {
				fault := o.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: c.err, Count: -1})
				a := o.post(one)
				require.Equal(t, c.status, a.status)
				require.LessOrEqual(t, a.took, 10*time.Second)
				require.Equal(t, []string{"e-1"}, a.ids)
				time.Sleep(3 * time.Second) // of the bubble: until the record is given up as well
				if c.unready {
					require.ErrorContains(t, o.service.Ready(), "no records of calls.events")
				} else {
					require.NoError(t, o.service.Ready())
				}
				fault.Remove()
				require.Equal(t, http.StatusAccepted, o.post(one).status, "the service goes on")
				require.NoError(t, o.service.Ready())
			})
		})
	}
}

func TestAMissingTopic(t *testing.T) {
	inBubble(t, nil, func(o *outage) {
		require.NoError(t, o.cluster.DeleteTopic(topic.AgentsEvents))
		time.Sleep(6 * time.Second)
		require.ErrorContains(t, o.service.Ready(), "the topic agents.events does not exist: run callstream topics apply")
		a := o.post(`{"type":"agent.status_changed","agent_id":"a"}`)
		require.Equal(t, http.StatusServiceUnavailable, a.status)
		require.LessOrEqual(t, a.took, 10*time.Second)
		require.Equal(t, http.StatusAccepted, o.post(one).status, "the other topics are as they were")
	})
}

func TestOverload(t *testing.T) {
	inBubble(t, func(c *Config) { c.MaxInFlight = 64 << 10 }, func(o *outage) {
		release := o.swallow()
		const senders = 40
		answers := make(chan answer, senders)
		for i := range senders {
			go func() {
				answers <- o.post(fmt.Sprintf(`{"id":"e-%d","type":"call.started","call_id":"c"}`, i))
			}()
		}
		synctest.Wait()
		refused := len(answers)
		require.Positive(t, refused)
		require.Less(t, refused, senders)
		for range refused {
			a := <-answers
			require.Equal(t, http.StatusTooManyRequests, a.status)
			require.Equal(t, "1", a.header.Get("Retry-After"))
			require.Zero(t, a.took, "at once")
			require.Empty(t, a.ids)
		}
		require.LessOrEqual(t, o.service.budget.used.Load(), int64(64<<10))
		require.Equal(t, http.StatusTooManyRequests, o.post(one).status)
		// The longer nothing is acknowledged, the surer it is that Kafka is away, which is no fault of the callers'.
		time.Sleep(4 * time.Second)
		a := o.post(one)
		require.Equal(t, http.StatusServiceUnavailable, a.status)
		require.Zero(t, a.took)
		require.Contains(t, a.detail, "nothing was accepted")

		release()
		for range senders - refused {
			require.Equal(t, http.StatusAccepted, (<-answers).status)
		}
		require.Equal(t, int64(senders-refused), o.records(), "nothing of the refused ones was produced")
		require.Equal(t, http.StatusAccepted, o.post(one).status)
	})
}

func TestARequestOverTheLimitPassesAlone(t *testing.T) {
	inBubble(t, func(c *Config) { c.MaxInFlight = 64 << 10 }, func(o *outage) {
		big := `{"type":"transcript.ready","call_id":"c","data":{"transcript_text":"` + strings.Repeat("x", 500_000) + `"}}`
		require.Equal(t, http.StatusAccepted, o.post(big).status)
		release := o.swallow()
		small := make(chan answer, 1)
		go func() { small <- o.post(one) }()
		synctest.Wait()
		require.Equal(t, http.StatusTooManyRequests, o.post(big).status, "not beside another")
		release()
		require.Equal(t, http.StatusAccepted, (<-small).status)
	})
}

func TestACallerThatGoesAway(t *testing.T) {
	inBubble(t, nil, func(o *outage) {
		release := o.swallow()
		ctx, leave := context.WithCancel(o.t.Context())
		time.AfterFunc(time.Second, leave)
		a := o.postUntil(ctx, one)
		require.Equal(t, time.Second, a.took)
		require.Equal(t, http.StatusServiceUnavailable, a.status, "who only closed its sending side still reads the answer")
		require.Len(t, a.ids, 1)
		require.Positive(t, o.service.budget.used.Load(), "its record still counts")
		release()
		require.NoError(t, o.service.producer.Flush(o.t.Context()))
		require.Equal(t, int64(1), o.records(), "and isn't taken back")
	})
}

func TestTheEndWaitsForRequests(t *testing.T) {
	inBubble(t, nil, func(o *outage) {
		release := o.swallow()
		answers := make(chan answer, 1)
		go func() { answers <- o.post(one) }()
		synctest.Wait()
		o.stop()
		synctest.Wait()
		a := o.post(one)
		require.Equal(t, http.StatusServiceUnavailable, a.status)
		require.Contains(t, a.detail, "shutting down")
		release()
		require.Equal(t, http.StatusAccepted, (<-answers).status)
	})
}

// dripping is a body of which nothing more comes until it is closed.
type dripping struct{ closed chan struct{} }

func (d dripping) Read([]byte) (int, error) {
	<-d.closed
	return 0, io.ErrUnexpectedEOF
}

func TestTheEndDoesNotWaitForSlowSenders(t *testing.T) {
	inBubble(t, nil, func(o *outage) {
		body := dripping{make(chan struct{})}
		r := httptest.NewRequestWithContext(o.t.Context(), http.MethodPost, "http://localhost/v1/events", body)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			o.service.Handler().ServeHTTP(w, r)
		}()
		synctest.Wait()
		require.Positive(t, o.service.budget.used.Load())
		began := time.Now()
		o.stop()
		require.NoError(t, <-o.ended)
		require.Less(t, time.Since(began), time.Second)
		close(body.closed)
		<-answered
		require.Equal(t, http.StatusBadRequest, w.Code)
		o.ended <- nil
	})
}

func TestManySmallEventsAreCountedAtTheirCost(t *testing.T) {
	inBubble(t, func(c *Config) { c.MaxInFlight = 1 << 20 }, func(o *outage) {
		release := o.swallow()
		many := "[" + strings.Repeat(`{"type":"call.started","call_id":"c"},`, 5000) + one + "]"
		large := make(chan answer, 1)
		go func() { large <- o.post(many) }()
		synctest.Wait()
		require.Greater(t, o.service.budget.used.Load(), int64(5<<20), "not only at the bytes of the body")
		require.Equal(t, http.StatusTooManyRequests, o.post(one).status)
		release()
		require.Equal(t, http.StatusAccepted, (<-large).status)
	})
}

func TestTheEndWithKafkaAway(t *testing.T) {
	inBubble(t, nil, func(o *outage) {
		o.cluster.Close()
		answers := make(chan answer, 1)
		go func() { answers <- o.post(one) }()
		synctest.Wait()
		began := time.Now()
		o.stop()
		require.NoError(t, <-o.ended)
		require.LessOrEqual(t, time.Since(began), 20*time.Second)
		require.Equal(t, http.StatusServiceUnavailable, (<-answers).status)
		o.ended <- nil
	})
}

func TestARegistryThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage(t, &schemas{down: true}, nil)
		synctest.Wait()
		a := o.post(one)
		require.Equal(t, http.StatusServiceUnavailable, a.status)
		require.Zero(t, a.took)
		require.NotEmpty(t, a.header.Get("Retry-After"))
		time.Sleep(10 * time.Second)
		require.ErrorContains(t, o.service.Ready(), "schema registry")
		require.Zero(t, o.records())
		o.registry.reachable(true)
		for o.service.Ready() != nil {
			time.Sleep(10 * time.Millisecond)
		}
		o.registry.reachable(false)
		require.Equal(t, http.StatusAccepted, o.post(one).status, "once known, the ids stay known")
		o.stop()
		require.NoError(t, <-o.ended)
	})
}

func TestKeysThatAreNotReadYet(t *testing.T) {
	var cfg Config
	// Nobody listens there: port 1 is never given out.
	require.NoError(t, config.Load(&cfg, config.Source{Args: []string{"--kafka-brokers=127.0.0.1:1"}}))
	service, err := New(cfg, Deps{Telemetry: telemetry.Nop(), Codec: event.NewCodec(&schemas{})})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	o := &outage{t: t, service: service}
	a := o.post(one)
	require.Equal(t, http.StatusServiceUnavailable, a.status)
	require.Equal(t, "2", a.header.Get("Retry-After"))
	require.Contains(t, a.detail, "API keys")
	require.ErrorContains(t, service.Ready(), "callstream.keys")
	stop()
	require.NoError(t, <-ended)
	require.Equal(t, http.StatusServiceUnavailable, o.post(one).status)
}
