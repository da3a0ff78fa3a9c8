package producer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/config"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/kafkatest"
	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/producer"
)

// patience bounds waits; running into it means that something is stuck.
const patience = 60 * time.Second

// rig is a producer on a cluster of its own, seen from outside.
type rig struct {
	t       testing.TB
	target  kafkatest.Target
	codec   *event.Codec
	service *producer.Service
	url     string
	client  *kgo.Client
	token   string // sent as the API key; empty for none
}

// settings returns the defaults, with authentication off and an address that may be anything.
func settings(t testing.TB, brokers []string) producer.Config {
	t.Helper()
	var c producer.Config
	require.NoError(t, config.Load(&c, config.Source{Args: []string{"--auth=off", "--kafka-brokers=" + strings.Join(brokers, ",")}}))
	return c
}

// createTopics makes every topic that the producer knows.
func createTopics(t testing.TB, client *kgo.Client) {
	t.Helper()
	var specs []kafka.TopicSpec
	for _, tp := range topic.All(topic.Policy{Partitions: 2}) {
		specs = append(specs, kafka.TopicSpec{Name: tp.Name, Partitions: tp.Partitions, Retention: tp.Retention, MaxBytes: tp.MaxBytes})
	}
	_, err := kafka.EnsureTopics(t.Context(), client, specs, zap.NewNop(), kafka.TopicOptions{})
	require.NoError(t, err)
}

// start runs a producer; change may adjust its configuration.
func start(t testing.TB, change func(*producer.Config)) *rig {
	t.Helper()
	return startWith(t, change, telemetry.Nop())
}

func startWith(t testing.TB, change func(*producer.Config), tel *telemetry.Telemetry) *rig {
	t.Helper()
	target := kafkatest.Cluster(t)
	// A client of its own, for one remembers for a while which topics it has asked for in vain.
	admin, err := kgo.NewClient(kgo.SeedBrokers(target.Brokers...))
	require.NoError(t, err)
	createTopics(t, admin)
	admin.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(target.Brokers...))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	registry, err := kafka.NewRegistry(kafka.RegistryConfig{URLs: []string{target.RegistryURL}})
	require.NoError(t, err)
	r := &rig{t: t, target: target, codec: event.NewCodec(registry), client: client}
	cfg := settings(t, target.Brokers)
	if change != nil {
		change(&cfg)
	}
	r.run(cfg, tel)
	r.eventually("the producer is ready", r.service.Ready)
	return r
}

// run starts the service and its server, and ends both with the test.
func (r *rig) run(cfg producer.Config, tel *telemetry.Telemetry) {
	r.t.Helper()
	service, err := producer.New(cfg, producer.Deps{Telemetry: tel, Codec: r.codec})
	require.NoError(r.t, err)
	r.service = service
	ctx, stop := context.WithCancel(context.WithoutCancel(r.t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := service.Run(ctx); err != nil {
			r.t.Error(err)
		}
	})
	server := httptest.NewServer(service.Handler())
	r.url = server.URL
	r.t.Cleanup(func() {
		stop()
		running.Wait()
		server.Close()
	})
}

func (r *rig) eventually(what string, cond func() error) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("waited in vain for: %s: %v", what, err)
		}
		<-tick.C
	}
}

type reply struct {
	status int
	header http.Header
	body   []byte
}

// problem reads the reply as a problem document.
func (a reply) problem(t testing.TB) problem.Problem {
	t.Helper()
	require.Equal(t, problem.ContentType, a.header.Get("Content-Type"), string(a.body))
	var p problem.Problem
	require.NoError(t, json.Unmarshal(a.body, &p), string(a.body))
	require.Equal(t, a.status, p.Status)
	return p
}

// ids reads the reply as the 202 that it must be.
func (a reply) ids(t testing.TB) []string {
	t.Helper()
	require.Equal(t, http.StatusAccepted, a.status, string(a.body))
	require.Equal(t, "application/json", a.header.Get("Content-Type"))
	var got struct {
		Accepted int
		IDs      []string
	}
	d := json.NewDecoder(bytes.NewReader(a.body))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&got))
	require.Len(t, got.IDs, got.Accepted)
	return got.IDs
}

// send posts a body; header entries go over the defaults, and an empty one removes a default.
func (r *rig) send(body io.Reader, header map[string]string) reply {
	r.t.Helper()
	a, err := r.try(body, header)
	require.NoError(r.t, err)
	return a
}

func (r *rig) try(body io.Reader, header map[string]string) (reply, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/v1/events", body)
	if err != nil {
		return reply{}, err
	}
	h := map[string]string{"Content-Type": "application/json"}
	if r.token != "" {
		h["Authorization"] = "Bearer " + r.token
	}
	maps.Copy(h, header)
	for k, v := range h {
		if v != "" {
			req.Header.Set(k, v)
		}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, raw}, err
}

func (r *rig) post(body string, header ...string) reply {
	r.t.Helper()
	h := map[string]string{}
	for i := 0; i < len(header); i += 2 {
		h[header[i]] = header[i+1]
	}
	return r.send(strings.NewReader(body), h)
}

// produced is how many records the event topics hold.
func (r *rig) produced() int64 {
	r.t.Helper()
	ends, err := kadm.NewClient(r.client).ListEndOffsets(r.t.Context(), topic.Events()...)
	require.NoError(r.t, err)
	require.NoError(r.t, ends.Error())
	n := int64(0)
	ends.Each(func(o kadm.ListedOffset) { n += o.Offset })
	return n
}

// sent is a record of an event topic with its event.
type sent struct {
	*kgo.Record
	*event.Event
}

func (s sent) header(name string) string { return kafka.Header(s.Record, name) }

// read returns every record of a topic, as kgo reads them, decoded.
func (r *rig) read(name string) []sent {
	r.t.Helper()
	ends, err := kadm.NewClient(r.client).ListEndOffsets(r.t.Context(), name)
	require.NoError(r.t, err)
	require.NoError(r.t, ends.Error())
	want := int64(0)
	starts := map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) { want += o.Offset; starts[o.Partition] = kgo.NewOffset().AtStart() })
	reader, err := kgo.NewClient(kgo.SeedBrokers(r.target.Brokers...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{name: starts}))
	require.NoError(r.t, err)
	defer reader.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	var out []sent
	for int64(len(out)) < want {
		fetches := reader.PollFetches(ctx)
		require.NoError(r.t, fetches.Err0())
		fetches.EachRecord(func(rec *kgo.Record) {
			e, err := r.codec.DecodeEvent(ctx, name, rec.Value)
			require.NoError(r.t, err)
			out = append(out, sent{rec, e})
		})
	}
	return out
}

// publish puts a record on the feed of the keys, or a tombstone, and waits until the producer has it.
func (r *rig) publish(id string, rec *event.KeyRecord) {
	r.t.Helper()
	var value []byte
	if rec != nil {
		var err error
		value, err = r.codec.Encode(r.t.Context(), nil, rec)
		require.NoError(r.t, err)
	}
	done, err := r.client.ProduceSync(r.t.Context(), &kgo.Record{Topic: topic.Keys, Key: []byte(id), Value: value}).First()
	require.NoError(r.t, err)
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	require.NoError(r.t, r.service.WaitKeysApplied(ctx, done.Offset+1))
}

// key is a record of a key of the tenant acme.
func key(id, plain string, version int64) *event.KeyRecord {
	return &event.KeyRecord{ID: id, Tenant: "acme", Hash: auth.Hash(plain), Scopes: []string{auth.ScopeEventsWrite}, Version: version, Epoch: 1}
}

func TestAnEventReachesItsTopic(t *testing.T) {
	r := start(t, nil)
	before := time.Now().Add(-time.Second)
	body := `{"type":"call.ended","call_id":"c-77","agent_id":"a-9","sequence":4,"data":{"duration_ms":61000,"caller":{"phone_number":"+4930"},"mine":{"deep":[1,2]}}}`
	ids := r.post(body, "X-Tenant", "acme").ids(t)
	require.Len(t, ids, 1)
	require.Regexp(t, `^evt_[0-9A-HJKMNP-TV-Z]{26}$`, ids[0])

	got := r.read(topic.CallsEvents)
	require.Len(t, got, 1)
	s := got[0]
	require.Equal(t, "acme/c-77", string(s.Record.Key))
	require.Equal(t, ids[0], s.ID)
	require.Equal(t, "acme", s.Tenant)
	require.Equal(t, "api", s.Source)
	require.Equal(t, int64(4), s.Sequence)
	require.True(t, s.Time.After(before) && s.IngestedAt.Equal(s.Time), "both are filled in with the time of acceptance")
	require.Equal(t, "call.ended", s.header("ce_type"))
	require.Equal(t, ids[0], s.header("ce_id"))
	require.Equal(t, "api", s.header("ce_source"))
	require.Equal(t, "acme", s.header("tenant"))
	require.True(t, telemetry.ValidTraceparent(s.header("traceparent")))
	require.JSONEq(t, `{"duration_ms":61000,"caller":{"phone_number":"+4930"},"mine":{"deep":[1,2]}}`, string(s.AppendData(nil)))
}

func TestWhatTheEventSaysStands(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	r := start(t, nil)
	ids := r.post(`{"id":"x-1","type":"call.started","call_id":"c","time":"2026-01-20T10:00:00.123Z","source":"dialer-eu","tenant":"acme","test":true,"attributes":{"k":"v"}}`,
		"X-Tenant", "acme", "Traceparent", parent).ids(t)
	require.Equal(t, []string{"x-1"}, ids)
	s := r.read(topic.CallsEvents)[0]
	require.Equal(t, "dialer-eu", s.header("ce_source"))
	require.Equal(t, time.Date(2026, 1, 20, 10, 0, 0, 123e6, time.UTC), s.Time)
	require.True(t, s.Test)
	require.Equal(t, parent, s.header("traceparent"), "the caller's trace goes on")
	require.Equal(t, parent, s.Traceparent)
	require.Equal(t, []event.Attribute{{Name: "k", Value: "v"}}, s.Attributes)
}

func TestEveryTopicHasItsKey(t *testing.T) {
	r := start(t, nil)
	r.post(`[{"type":"call.started","call_id":"c"},{"type":"chat.started","data":{"chat_id":"h"}},{"type":"agent.status_changed","agent_id":"a"},
		{"type":"phone_number.changed","data":{"resource_id":"p"}},{"type":"alert.raised","data":{"subscription_id":"s"}}]`).ids(t)
	for name, want := range map[string]string{topic.CallsEvents: "default/c", topic.MessagesEvents: "default/h", topic.AgentsEvents: "default/a",
		topic.SystemEvents: "default/p", topic.OwnEvents: "default/s"} {
		got := r.read(name)
		require.Len(t, got, 1, name)
		require.Equal(t, want, string(got[0].Record.Key))
	}
}

func TestArraysAndLinesKeepTheirOrder(t *testing.T) {
	r := start(t, nil)
	array := r.post(`[{"id":"a","type":"call.started","call_id":"c"},{"id":"b","type":"call.ringing","call_id":"c"}]`).ids(t)
	require.Equal(t, []string{"a", "b"}, array)
	lines := r.post("{\"id\":\"c\",\"type\":\"call.answered\",\"call_id\":\"c\"}\r\n\n{\"id\":\"d\",\"type\":\"call.ended\",\"call_id\":\"c\"}",
		"Content-Type", "application/x-ndjson; charset=utf-8").ids(t)
	require.Equal(t, []string{"c", "d"}, lines)
	var got []string
	for _, s := range r.read(topic.CallsEvents) {
		got = append(got, s.ID)
	}
	require.Equal(t, []string{"a", "b", "c", "d"}, got, "the events of a call lie in one partition, in order")
}

func TestTheSameEventTwiceInARequest(t *testing.T) {
	r := start(t, nil)
	ids := r.post(`[{"id":"a","type":"call.started","call_id":"c"},{"id":"a","type":"call.started","call_id":"d"},{"id":"a","source":"x","type":"call.started","call_id":"c"},{"id":"a","source":"api","type":"call.ended","call_id":"c"}]`).ids(t)
	require.Equal(t, []string{"a", "a", "a", "a"}, ids, "all are accepted")
	got := r.read(topic.CallsEvents)
	require.Len(t, got, 2, "and each identity is sent once")
	require.ElementsMatch(t, []string{"api", "x"}, []string{got[0].Source, got[1].Source})
}

func TestIdempotencyKey(t *testing.T) {
	r := start(t, nil)
	body := `[{"type":"call.started","call_id":"c"},{"id":"own","type":"call.ringing","call_id":"c"},{"type":"call.ended","call_id":"c"}]`
	first := r.post(body, "Idempotency-Key", "k1").ids(t)
	require.Equal(t, first, r.post(body, "Idempotency-Key", "k1").ids(t), "a repeat has the same ids")
	require.Equal(t, "own", first[1])
	require.NotEqual(t, first[0], first[2])
	require.NotEqual(t, first[0], r.post(body, "Idempotency-Key", "k2").ids(t)[0], "another key, other ids")
	require.NotEqual(t, first[0], r.post(body, "Idempotency-Key", "k1", "X-Tenant", "acme").ids(t)[0], "another tenant, other ids")
	require.NotEqual(t, first[0], r.post(body).ids(t)[0])
	require.Equal(t, http.StatusBadRequest, r.post(body, "Idempotency-Key", strings.Repeat("k", 256)).status)
}

func TestKeys(t *testing.T) {
	r := start(t, func(c *producer.Config) { c.Auth = "keys" })
	const body = `{"type":"call.started","call_id":"c"}`
	r.token = "cs_one"
	require.Equal(t, http.StatusUnauthorized, r.post(body).status, "not known yet")
	r.publish("key_1", key("key_1", "cs_one", 1))
	r.post(body).ids(t)
	require.Equal(t, http.StatusUnauthorized, r.post(body, "Authorization", "Bearer cs_two").status)
	require.Equal(t, http.StatusUnauthorized, r.post(body, "Authorization", "Basic cs_one").status)
	r.token = ""
	a := r.post(body)
	require.Equal(t, http.StatusUnauthorized, a.status)
	a.problem(t)
	r.token = "cs_one"

	reader := key("key_2", "cs_reader", 1)
	reader.Scopes = []string{auth.ScopeDeliveriesRead}
	r.publish("key_2", reader)
	require.Equal(t, http.StatusForbidden, r.post(body, "Authorization", "Bearer cs_reader").status)

	r.publish("key_1", key("key_1", "cs_rotated", 3))
	require.Equal(t, http.StatusUnauthorized, r.post(body).status, "a rotated key's old secret is gone")
	r.publish("key_1", key("key_1", "cs_one", 2))
	require.Equal(t, http.StatusUnauthorized, r.post(body).status, "an older version changes nothing")
	r.token = "cs_rotated"
	r.post(body).ids(t)
	gone := key("key_1", "cs_rotated", 4)
	gone.Deleted = true
	r.publish("key_1", gone)
	require.Equal(t, http.StatusUnauthorized, r.post(body).status, "deleted")
	r.publish("key_1", key("key_1", "cs_rotated", 3))
	require.Equal(t, http.StatusUnauthorized, r.post(body).status, "what comes late doesn't bring it back")
	restored := key("key_1", "cs_rotated", 1)
	restored.Epoch = 2
	r.publish("key_1", restored)
	r.post(body).ids(t)
	r.publish("key_1", nil)
	require.Equal(t, http.StatusUnauthorized, r.post(body).status, "a tombstone ends it too")

	expired := key("key_3", "cs_old", 1)
	expired.ExpiresAt = time.Now().Add(-time.Minute)
	r.publish("key_3", expired)
	require.Equal(t, http.StatusUnauthorized, r.post(body, "Authorization", "Bearer cs_old").status)
}

func TestAJunkRecordOnTheFeedStopsNothing(t *testing.T) {
	r := start(t, func(c *producer.Config) { c.Auth = "keys" })
	require.NoError(t, r.client.ProduceSync(t.Context(), &kgo.Record{Topic: topic.Keys, Key: []byte("x"), Value: []byte("junk")}).FirstErr())
	r.publish("key_1", key("key_1", "cs_one", 1))
	r.token = "cs_one"
	r.post(`{"type":"call.started","call_id":"c"}`).ids(t)
}

func TestOtherMethodsAndPaths(t *testing.T) {
	r := start(t, nil)
	for _, c := range []struct {
		method, path string
		status       int
	}{{"GET", "/v1/events", 405}, {"DELETE", "/v1/events", 405}, {"POST", "/v1/events/", 404}, {"POST", "/", 404}} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, r.url+c.path, nil)
		require.NoError(t, err)
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, c.status, res.StatusCode, c.method+c.path)
		if c.status == 405 {
			require.Equal(t, "POST", res.Header.Get("Allow"))
		}
	}
}

func TestNoStartWithoutCodecOrBrokers(t *testing.T) {
	_, err := producer.New(producer.Config{}, producer.Deps{Telemetry: telemetry.Nop()})
	require.Error(t, err)
	_, err = producer.New(producer.Config{Auth: "off"}, producer.Deps{Telemetry: telemetry.Nop(), Codec: event.NewCodec(nil)})
	require.ErrorIs(t, err, kafka.ErrNoBrokers)
}

func TestAuthOffNeedsLoopback(t *testing.T) {
	load := func(addr string) error {
		return config.Load(new(producer.Config), config.Source{Args: []string{"--auth=off", "--http-addr=" + addr}})
	}
	require.NoError(t, load("127.0.0.1:0"))
	var wrong *config.Errors
	require.ErrorAs(t, load("0.0.0.0:8080"), &wrong)
	require.Contains(t, wrong.Error(), "CALLSTREAM_AUTH: off is refused while CALLSTREAM_HTTP_ADDR is 0.0.0.0:8080")
}

func TestOpenAPI(t *testing.T) {
	var item struct {
		Post struct{ Responses map[string]any }
	}
	require.NoError(t, json.Unmarshal(producer.OpenAPI(), &item))
	for _, status := range []string{"202", "400", "401", "403", "413", "415", "422", "429", "503"} {
		require.Contains(t, item.Post.Responses, status)
	}
}
