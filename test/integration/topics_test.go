package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
)

// records reads a topic as a stranger would, from its start to the end it has at this moment.
func (p *pipeline) records(name string) []*kgo.Record {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.t.Context()), patience)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(p.brokers...), kgo.ConsumeTopics(name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxWait(100*time.Millisecond))
	require.NoError(p.t, err)
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, name)
	require.NoError(p.t, err)
	require.NoError(p.t, ends.Error())
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	var out []*kgo.Record
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		require.NoError(p.t, fetches.Err0(), "reading %s", name)
		fetches.EachRecord(func(r *kgo.Record) {
			end, open := left[r.Partition]
			if !open || r.Offset >= end {
				return
			}
			out = append(out, r)
			if r.Offset == end-1 {
				delete(left, r.Partition)
			}
		})
	}
	return out
}

// decoder decodes records with our codec and the pipeline's registry.
func (p *pipeline) decoder() *event.Codec {
	p.t.Helper()
	registry, err := kafka.NewRegistry(kafka.RegistryConfig{URLs: []string{p.registry}})
	require.NoError(p.t, err)
	return event.NewCodec(registry)
}

// decisions returns what the filter decided for a tenant's events so far.
func (p *pipeline) decisions(tenant string) []event.Decision {
	p.t.Helper()
	return read[event.Decision](p, topic.Decisions, func(d *event.Decision) bool { return d.Tenant == tenant })
}

// decided is decisions as event id → subscription id → "outcome reason".
func (p *pipeline) decided(tenant string) map[string]map[string]string {
	out := map[string]map[string]string{}
	for _, d := range p.decisions(tenant) {
		for _, one := range d.Decisions {
			if out[d.EventID] == nil {
				out[d.EventID] = map[string]string{}
			}
			out[d.EventID][one.SubscriptionID] = strings.TrimSpace(one.Outcome + " " + one.Reason)
		}
	}
	return out
}

// attempts returns the attempts for a tenant's deliveries so far, in order of time.
func (p *pipeline) attempts(tenant string) []event.Attempt {
	p.t.Helper()
	out := read[event.Attempt](p, topic.Attempts, func(a *event.Attempt) bool { return a.Tenant == tenant })
	sort.SliceStable(out, func(i, j int) bool {
		if out[i].DeliveryID == out[j].DeliveryID {
			return out[i].Attempt < out[j].Attempt
		}
		return out[i].DeliveryID < out[j].DeliveryID
	})
	return out
}

// dead returns a tenant's dead letters so far; "" means everybody's, those without a tenant as well.
func (p *pipeline) dead(tenant string) []event.DeadLetter {
	p.t.Helper()
	return read[event.DeadLetter](p, topic.DeadLetters, func(d *event.DeadLetter) bool { return tenant == "" || d.Tenant == tenant })
}

// read decodes the records of a topic that are wanted.
func read[R any, P interface {
	*R
	event.Record
}](p *pipeline, name string, wanted func(P) bool) []R {
	p.t.Helper()
	codec := p.decoder()
	var out []R
	for _, r := range p.records(name) {
		var v R
		require.NoError(p.t, codec.Decode(p.t.Context(), r.Value, P(&v)), "%s %d/%d", name, r.Partition, r.Offset)
		if wanted(&v) {
			out = append(out, v)
		}
	}
	return out
}

// await returns the requests of a receiver once there are n, in order of arrival.
func await(t *testing.T, hook *hooktest.Receiver, n int) []*hooktest.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, hook.WaitFor(ctx, n))
	return hook.Requests()
}

func awaitDecisions(t *testing.T, p *pipeline, tenant string, n int) map[string]map[string]string {
	t.Helper()
	var got map[string]map[string]string
	eventually(t, "decisions", func() error {
		if got = p.decided(tenant); len(got) < n {
			return fmt.Errorf("%d of %d events decided", len(got), n)
		}
		return nil
	})
	return got
}

func awaitAttempts(t *testing.T, p *pipeline, tenant string, n int) []event.Attempt {
	t.Helper()
	var got []event.Attempt
	eventually(t, "attempts", func() error {
		if got = p.attempts(tenant); len(got) < n {
			return fmt.Errorf("%d of %d attempts", len(got), n)
		}
		return nil
	})
	return got
}

func awaitDead(t *testing.T, p *pipeline, tenant string, n int) []event.DeadLetter {
	t.Helper()
	var got []event.DeadLetter
	eventually(t, "dead letters", func() error {
		if got = p.dead(tenant); len(got) < n {
			return fmt.Errorf("%d of %d dead letters", len(got), n)
		}
		return nil
	})
	return got
}

func outcomes(attempts []event.Attempt) []string {
	out := make([]string, 0, len(attempts))
	for _, a := range attempts {
		out = append(out, a.Outcome)
	}
	return out
}

func eventIDs(requests []*hooktest.Request) []string {
	out := make([]string, 0, len(requests))
	for _, r := range requests {
		out = append(out, r.Header.Get("X-Event-Id"))
	}
	return out
}

// awaitFeed waits until every filter and dispatcher has applied the subscriptions feed to its present end.
func (p *pipeline) awaitFeed() {
	p.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(p.brokers...))
	require.NoError(p.t, err)
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(p.t.Context(), topic.Subscriptions)
	require.NoError(p.t, err)
	end, ok := ends.Lookup(topic.Subscriptions, 0)
	require.True(p.t, ok)
	for _, name := range p.names() {
		if name != "filter" && !strings.HasPrefix(name, "dispatcher-") {
			continue
		}
		eventually(p.t, name+" has applied the feed", func() error {
			applied, err := metric(p.t.Context(), p.url(name), "callstream_feed_applied_offset", topic.Subscriptions)
			if err != nil {
				return err
			}
			if int64(applied) < end.Offset {
				return fmt.Errorf("applied %v of %d", applied, end.Offset)
			}
			return nil
		})
	}
}

// metric reads one series from a process's /metrics: the first of that name whose labels mention label.
func metric(ctx context.Context, base, name, label string) (float64, error) {
	r, err := request(ctx, http.MethodGet, base+"/metrics", nil, nil)
	if err != nil {
		return 0, err
	}
	line := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + `\{[^}]*` + regexp.QuoteMeta(label) + `[^}]*\} (\S+)$`).FindSubmatch(r.body)
	if line == nil {
		return 0, fmt.Errorf("%s has no series %s with %q", base, name, label)
	}
	return strconv.ParseFloat(string(line[1]), 64)
}

// snake turns the names of an object into snake_case, as the events of the catalogue have them.
func snake(v any) object {
	out := object{}
	for name, value := range v.(map[string]any) {
		out[strings.ToLower(regexp.MustCompile(`[A-Z]`).ReplaceAllStringFunc(name, func(c string) string { return "_" + c }))] = value
	}
	return out
}

// compact removes the white space between the tokens of a JSON text, and nothing else.
func compact(t *testing.T, raw []byte) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, json.Compact(&b, raw))
	return b.String()
}
