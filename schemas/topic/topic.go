// Package topic holds every Kafka topic of callstream as data: name, key, schema, partitions, retention and sizes.
// Whoever creates, checks or documents a topic reads it from here, so that a topic is declared once.
package topic

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

// The event topics, one flat Avro record each. They are the product's public face: warehouses read them and other teams
// may write to them.
const (
	CallsEvents    = "calls.events"
	MessagesEvents = "messages.events"
	AgentsEvents   = "agents.events"
	SystemEvents   = "system.events"
	OwnEvents      = "callstream.events"
)

// The topics of the pipeline. Delivery lanes and retry tiers are named by Lane and RetryTier.
const (
	Subscriptions = "callstream.subscriptions"
	Keys          = "callstream.keys"
	Signals       = "callstream.signals"
	Replays       = "callstream.replays"
	Slow          = "deliveries.slow"
	Ordered       = "deliveries.ordered"
	DeadLetters   = "deliveries.dlq"
	Decisions     = "deliveries.decisions"
	Attempts      = "deliveries.attempts"
	Responses     = "calls.responses"
)

const (
	retryPrefix = "deliveries.retry."
	lanePrefix  = "deliveries."
	// DefaultPartitions is the partition count of the pipeline topics of a cluster; callstream up uses fewer.
	DefaultPartitions = 48
	// DefaultLane is the lane of a subscription that names none.
	DefaultLane = "standard"

	mebibyte = 1 << 20
	day      = 24 * time.Hour
)

// Lane returns the topic of a delivery lane: "standard" is "deliveries.standard".
func Lane(name string) string { return lanePrefix + name }

// RetryTier returns the topic of the retry tier with this delay, named in the largest unit that divides it:
// "deliveries.retry.5s", "deliveries.retry.2m", "deliveries.retry.1h".
func RetryTier(delay time.Duration) string { return retryPrefix + spell(delay) }

// spell writes a delay in the largest unit that divides it.
func spell(delay time.Duration) string {
	switch {
	case delay > 0 && delay%time.Hour == 0:
		return fmt.Sprintf("%dh", delay/time.Hour)
	case delay > 0 && delay%time.Minute == 0:
		return fmt.Sprintf("%dm", delay/time.Minute)
	case delay%time.Second == 0:
		return fmt.Sprintf("%ds", delay/time.Second)
	default:
		return fmt.Sprintf("%dms", delay/time.Millisecond)
	}
}

// Names of the Avro records that the topics hold, as event.Record's SchemaName returns them.
const (
	CallEventSchema       = "callstream.CallEvent"
	MessageEventSchema    = "callstream.MessageEvent"
	AgentEventSchema      = "callstream.AgentEvent"
	SystemEventSchema     = "callstream.SystemEvent"
	CallstreamEventSchema = "callstream.CallstreamEvent"
	SubscriptionSchema    = "callstream.SubscriptionRecord"
	KeySchema             = "callstream.KeyRecord"
	SignalSchema          = "callstream.Signal"
	ReplaySchema          = "callstream.Replay"
	DeliverySchema        = "callstream.Delivery"
	DeadLetterSchema      = "callstream.DeadLetter"
	DecisionSchema        = "callstream.Decision"
	AttemptSchema         = "callstream.Attempt"
	ResponseSchema        = "callstream.Response"
)

// Topic is one Kafka topic as it is to be created.
type Topic struct {
	Name       string
	Doc        string        // what it holds, one sentence
	Key        string        // what the record key is made of, in words
	Schema     string        // full name of its Avro record
	Partitions int           // fixed once the topic is created
	Retention  time.Duration // negative: for ever
	Compact    bool          // only the newest record of a key matters; the embedded broker keeps such a topic whole
	MaxBytes   int           // largest record batch, on the wire
}

// Kept says for people how long records are kept: "7 days", "7 days and 30s", "newest of each key", "for ever".
func (t Topic) Kept() string {
	days, rest := t.Retention/day, t.Retention%day
	switch {
	case t.Compact:
		return "newest of each key"
	case t.Retention < 0:
		return "for ever"
	case rest == 0:
		return fmt.Sprintf("%d days", days)
	}
	return fmt.Sprintf("%d days and %s", days, spell(rest))
}

// Subject is the name under which the topic's value schema is registered.
func (t Topic) Subject() string { return Subject(t.Name) }

// Subject is the registry subject of a topic's values.
func Subject(topic string) string { return topic + "-value" }

// Policy is what an installation chooses about its topics. Fields left zero take the defaults of the contract.
type Policy struct {
	Partitions  int             // of every topic but the feeds, signals and replays; default DefaultPartitions
	Lanes       []string        // delivery lanes; default "standard"
	RetryDelays []time.Duration // default 5s, 30s, 2m, 10m, 1h, 6h, 12h
}

// DefaultRetryDelays returns the delays between attempts that hold where nothing else is configured.
func DefaultRetryDelays() []time.Duration {
	return []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, time.Hour, 6 * time.Hour, 12 * time.Hour}
}

// Tiers returns the delays of the retry tiers, ascending and without repeats.
func (p Policy) Tiers() []time.Duration {
	delays := p.RetryDelays
	if len(delays) == 0 {
		delays = DefaultRetryDelays()
	}
	tiers := slices.DeleteFunc(slices.Clone(delays), func(d time.Duration) bool { return d <= 0 })
	slices.Sort(tiers)
	return slices.Compact(tiers)
}

func (p Policy) partitions() int { return cmp.Or(max(p.Partitions, 0), DefaultPartitions) }

func (p Policy) lanes() []string {
	if len(p.Lanes) == 0 {
		return []string{DefaultLane}
	}
	lanes := slices.Clone(p.Lanes)
	slices.Sort(lanes)
	return slices.Compact(lanes)
}

// Events returns the names of the event topics.
func Events() []string {
	return []string{CallsEvents, MessagesEvents, AgentsEvents, SystemEvents, OwnEvents}
}

// IsEvents reports whether a topic is one of the event topics.
func IsEvents(name string) bool { return slices.Contains(Events(), name) }

// All returns every topic under a policy.
func All(p Policy) []Topic {
	n := p.partitions()
	events := func(name, schema, key, doc string) Topic {
		return Topic{Name: name, Schema: schema, Key: key, Doc: doc, Partitions: n, Retention: 7 * day, MaxBytes: 2 * mebibyte}
	}
	deliveries := func(name, doc string, retention time.Duration) Topic {
		return Topic{Name: name, Schema: DeliverySchema, Key: "subscription", Doc: doc, Partitions: n, Retention: retention, MaxBytes: 4 * mebibyte}
	}
	all := []Topic{
		events(CallsEvents, CallEventSchema, "tenant/call", "What happened in calls: lifecycle, content and actions; the events of one call are in one partition, in order."),
		events(MessagesEvents, MessageEventSchema, "tenant/chat or message", "Text messages and chats."),
		events(AgentsEvents, AgentEventSchema, "tenant/agent", "What happened to agents, human and virtual."),
		events(SystemEvents, SystemEventSchema, "tenant/resource", "What happened to the platform and its resources."),
		events(OwnEvents, CallstreamEventSchema, "tenant/subscription", "Callstream's own events about subscriptions, endpoints and alerts."),
		{Name: Subscriptions, Schema: SubscriptionSchema, Key: "subscription", Doc: "Feed of the subscriptions in force, secrets sealed. A projection of the database.", Partitions: 1, Retention: -1, Compact: true, MaxBytes: 2 * mebibyte},
		{Name: Keys, Schema: KeySchema, Key: "key id", Doc: "Feed of the API keys in force, hashed. A projection of the database.", Partitions: 1, Retention: -1, Compact: true, MaxBytes: mebibyte},
		{Name: Signals, Schema: SignalSchema, Key: "subscription", Doc: "What dispatchers ask the console to record: endpoints to disable, endpoints that fail or recovered.", Partitions: 1, Retention: 30 * day, MaxBytes: mebibyte},
		{Name: Replays, Schema: ReplaySchema, Key: "replay", Doc: "Commands to replay events from the log.", Partitions: 1, Retention: 30 * day, MaxBytes: mebibyte},
	}
	for _, lane := range p.lanes() {
		all = append(all, deliveries(Lane(lane), "Requests to be sent, first attempts.", 7*day))
	}
	all = append(all,
		deliveries(Slow, "Requests whose endpoint is over its share, waiting apart from the others.", 7*day),
		deliveries(Ordered, "Requests of calls whose order a subscription wants kept, behind one that failed.", 7*day),
	)
	for _, delay := range p.Tiers() {
		all = append(all, deliveries(RetryTier(delay), "Requests to be tried again after "+strings.TrimPrefix(RetryTier(delay), retryPrefix)+".", delay+7*day))
	}
	return append(all,
		Topic{Name: DeadLetters, Schema: DeadLetterSchema, Key: "subscription, or the original key", Doc: "What could not be processed or delivered, with the original bytes and the reason.", Partitions: n, Retention: 30 * day, MaxBytes: 8 * mebibyte},
		Topic{Name: Decisions, Schema: DecisionSchema, Key: "the event's key", Doc: "What the filter decided about an event for each subscription whose event types match, and why.", Partitions: n, Retention: 30 * day, MaxBytes: 8 * mebibyte},
		Topic{Name: Attempts, Schema: AttemptSchema, Key: "subscription", Doc: "One record for each attempt to deliver, with request, response and timings.", Partitions: n, Retention: 30 * day, MaxBytes: 8 * mebibyte},
		Topic{Name: Responses, Schema: ResponseSchema, Key: "tenant/call", Doc: "Captured response bodies of endpoints, for the agent's screen.", Partitions: n, Retention: 7 * day, MaxBytes: 2 * mebibyte},
	)
}

// SchemaOf returns the full name of the Avro record that a topic holds, and false for a topic that is not callstream's.
// It knows every lane and retry tier, whatever the policy.
func SchemaOf(name string) (string, bool) {
	for _, t := range All(Policy{}) {
		if t.Name == name {
			return t.Schema, true
		}
	}
	if rest, ok := strings.CutPrefix(name, lanePrefix); ok && rest != "" {
		return DeliverySchema, true
	}
	return "", false
}

// PartitionFor is the partition of a delivery, (hash(subscription) + hash(call) mod spread) mod partitions, with XXH64
// as the hash. All requests of a subscription share one partition, or spread neighbouring ones, and so one dispatcher,
// which is what keeps limits, breakers and order in one place. A spread below 2 leaves the call out; partitions must be positive.
func PartitionFor(subscriptionID, callID string, spread, partitions int) int32 {
	p := uint64(partitions)
	at := xxhash.Sum64String(subscriptionID) % p
	if spread > 1 {
		at += xxhash.Sum64String(callID) % uint64(spread)
	}
	return int32(at % p)
}

// EventKey is the record key of an event topic: the tenant, a slash, and the entity whose events stay in order.
// The default partitioner (murmur2) places it, so that events from any client in any language meet in one partition.
func EventKey(tenant, entity string) []byte {
	key := make([]byte, 0, len(tenant)+1+len(entity))
	key = append(key, tenant...)
	key = append(key, '/')
	return append(key, entity...)
}
