package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
)

// produce puts records on a topic as any Kafka client may.
func (p *pipeline) produce(records ...*kgo.Record) {
	p.t.Helper()
	p.mu.Lock()
	brokers := p.brokers
	p.mu.Unlock()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	require.NoError(p.t, err)
	defer cl.Close()
	require.NoError(p.t, cl.ProduceSync(p.t.Context(), records...).FirstErr())
}

// avro encodes an event as a direct producer does.
func (p *pipeline) avro(raw string) []byte {
	p.t.Helper()
	e, err := event.Parse([]byte(raw))
	require.NoError(p.t, err)
	value, err := p.decoder().EncodeEvent(p.t.Context(), nil, e)
	require.NoError(p.t, err)
	return value
}

func deliversDirectAvro(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}})
	value := func(id string) []byte {
		return p.avro(`{"type":"call.ended","tenant":"` + tn.name + `","source":"pbx","call_id":"d-1",` + id + `"data":{"duration_ms":7}}`)
	}
	p.produce(
		&kgo.Record{Topic: topic.CallsEvents, Key: []byte(tn.name + "/d-1"), Value: value(`"id":"with-id",`)},
		&kgo.Record{Topic: topic.CallsEvents, Key: []byte(tn.name + "/d-1"), Value: value("")},
		&kgo.Record{Topic: topic.CallsEvents, Key: []byte(tn.name + "/d-1"), Value: value(`"id":"with-headers",`), Headers: []kgo.RecordHeader{
			{Key: kafka.HeaderType, Value: []byte("call.ended")}, {Key: kafka.HeaderTenant, Value: []byte(tn.name)},
		}},
		&kgo.Record{Topic: topic.CallsEvents, Key: []byte(tn.name + "/d-1"), Value: value(`"id":"lies",`), Headers: []kgo.RecordHeader{
			{Key: kafka.HeaderType, Value: []byte("call.started")}, {Key: kafka.HeaderTenant, Value: []byte(tn.name)},
		}},
	)
	ids := eventIDs(await(t, hook, 3))
	require.Contains(t, ids, "with-id")
	require.Contains(t, ids, "with-headers")
	for _, id := range ids {
		require.NotEmpty(t, id, "an event without an id gets one")
		require.NotEqual(t, "lies", id)
	}
	eventually(t, "headers that contradict the value make a dead letter", func() error {
		for _, d := range p.dead("") {
			if strings.Contains(d.Detail+d.Reason, "header") && strings.Contains(string(d.OriginalValue), "lies") {
				return nil
			}
		}
		return errors.New("there is none")
	})
}

func survivesPoison(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}})
	unknown := binary.BigEndian.AppendUint32([]byte{0}, 987654)
	good := p.avro(`{"type":"call.ended","id":"after-poison","tenant":"` + tn.name + `","call_id":"z"}`)
	key := []byte(tn.name + "/z")
	bad := map[string][]byte{
		"not avro " + tn.name:                       []byte("not avro " + tn.name),
		string(unknown) + tn.name:                   append(unknown, tn.name...),
		string(good[:5]) + "\xff\xff\xff" + tn.name: append(append([]byte{}, good[:5]...), "\xff\xff\xff"+tn.name...),
		"": nil,
	}
	for _, value := range bad {
		p.produce(&kgo.Record{Topic: topic.CallsEvents, Key: key, Value: value})
	}
	p.produce(&kgo.Record{Topic: topic.CallsEvents, Key: key, Value: good})
	require.Equal(t, []string{"after-poison"}, eventIDs(await(t, hook, 1)))
	eventually(t, "each bad record is a dead letter, raw", func() error {
		found := map[string]bool{}
		for _, d := range p.dead("") {
			if string(d.OriginalKey) == string(key) {
				found[string(d.OriginalValue)] = true
			}
		}
		for value := range bad {
			if !found[value] {
				return fmt.Errorf("%q is missing", value)
			}
		}
		return nil
	})
}

// TestAuthOff is callstream up as a newcomer starts it: no key on loopback, and no other site gets in through a browser.
func TestAuthOff(t *testing.T) {
	p := startPipeline(t, settings{shape: together, env: map[string]string{"CALLSTREAM_AUTH": ""}})
	send := func(header http.Header) int {
		header.Set("Content-Type", "application/json")
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.base(http.MethodPost, "/v1/events")+"/v1/events", strings.NewReader(`{"type":"call.ended","call_id":"o"}`))
		require.NoError(t, err)
		req.Header = header
		if host := header.Get("Host"); host != "" {
			req.Host = host
		}
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		return res.StatusCode
	}
	require.Equal(t, 202, send(http.Header{}), "no key is asked for on loopback")
	require.Equal(t, 202, send(http.Header{"X-Tenant": {"acme"}}))
	require.Equal(t, 403, send(http.Header{"Host": {"rebound.example.com"}}), "DNS rebinding")
	require.Equal(t, 403, send(http.Header{"Origin": {"https://evil.example.com"}}), "cross-site page")
	out, err := p.tryCallstream("up", "--http-addr", "0.0.0.0:0", "--auth", "off")
	require.Error(t, err, "%s", out)
	require.Contains(t, err.Error(), "loopback")
}
