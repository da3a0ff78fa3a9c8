package filter

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/payload"
)

// job is the work on one event that somebody may want.
type job struct {
	*decider
	record      *kgo.Record
	event       *event.Event
	out         *emission
	at          time.Time // when it is decided
	duplicateOf string    // says of which record the event is a repeat; empty when it is none
	allowance   subscription.Allowance
	replayID    string // the replay that asks for the event again; empty when it comes for the first time

	delivery   event.Delivery // the one at hand
	renderings []rendering
	byKey      map[string]int // places in renderings, where they are many
	room       [4]rendering   // first backing of renderings
}

func newJob(d *decider, r *kgo.Record, e *event.Event, out *emission) job {
	return job{decider: d, record: r, event: e, out: out, at: d.now()}
}

// rendering is a body that several subscriptions may share.
type rendering struct {
	key  string
	body payload.Rendered
	err  error
}

const (
	// maxScratch and maxRenderings bound the bodies of one event that are kept for the next subscription with the same
	// rendering. Beyond them they are forgotten, and made again for whoever shares them: an event of 1 MiB that a thousand
	// subscriptions want each in another shape must not take a gigabyte.
	maxScratch    = 8 << 20
	maxRenderings = 256
	// fewRenderings are found faster by looking at each than in a map.
	fewRenderings = 8
)

// consider decides about one candidate and writes what follows. A fault of ours in it costs that candidate its delivery,
// which becomes a dead letter, and nobody else theirs.
func (j *job) consider(ctx context.Context, c *subscription.Compiled) (err error) {
	if len(j.out.entries) >= maxEntries {
		if err := j.decisions(ctx); err != nil {
			return err
		}
	}
	noted := len(j.out.entries)
	defer func() {
		if cause := recover(); cause != nil {
			j.out.entries = j.out.entries[:noted]
			detail := j.panicked(cause, j.record, zap.String("subscription", c.ID), zap.Int64("version", c.Version))
			err = j.die(ctx, c, deadInternal, detail)
		}
	}()
	if reason, detail := j.unwanted(c); reason != "" {
		j.note(c, verdict{outcomeSkipped, reason}, detail, "")
		return nil
	}
	body := j.render(c)
	if body.err != nil {
		return j.die(ctx, c, payload.Reason(body.err), body.err.Error())
	}
	j.delivery = payload.NewDelivery(c.Subscription, j.event, body.body)
	j.note(c, verdict{outcomeQueued, ""}, "", j.delivery.ID)
	return j.deliver(ctx, c)
}

// unwanted says why the subscription does not get the event; "" where it does. A replay asks more: the Book was not asked
// for its candidates, and the subscription has changed since it was.
func (j *job) unwanted(c *subscription.Compiled) (reason, detail string) {
	if j.duplicateOf != "" {
		return skipDuplicate, j.duplicateOf
	}
	if j.replayID != "" {
		if reason, detail := c.Wants(j.event); reason != "" {
			return reason, detail
		}
	}
	return c.Verdict(j.event, j.at, j.replayID != "", &j.allowance)
}

// render renders the event for a subscription, once for all that want the same rendering.
func (j *job) render(c *subscription.Compiled) *rendering {
	renderer, err := payload.For(c)
	if err != nil {
		return &rendering{err: err}
	}
	key := renderer.Key()
	if known := j.rendered(key); known != nil {
		return known
	}
	if len(j.out.bodies) > maxScratch || len(j.renderings) == maxRenderings {
		// What was made is in records by now.
		clear(j.renderings)
		j.renderings, j.byKey, j.out.bodies = j.renderings[:0], nil, j.out.bodies[:0]
	}
	if j.renderings == nil {
		j.renderings = j.room[:0]
	}
	started := j.now()
	var body payload.Rendered
	j.out.bodies, body, err = renderer.Append(j.out.bodies, j.event)
	j.metrics.rendered(j.now().Sub(started))
	j.renderings = append(j.renderings, rendering{key: key, body: body, err: err})
	n := len(j.renderings)
	switch {
	case n == fewRenderings+1:
		j.byKey = make(map[string]int, 4*fewRenderings)
		for i := range j.renderings {
			j.byKey[j.renderings[i].key] = i
		}
	case n > fewRenderings:
		j.byKey[key] = n - 1
	}
	return &j.renderings[n-1]
}

// rendered returns the rendering with a key, nil where there is none yet.
func (j *job) rendered(key string) *rendering {
	if j.byKey != nil {
		if i, ok := j.byKey[key]; ok {
			return &j.renderings[i]
		}
		return nil
	}
	for i := range j.renderings {
		if j.renderings[i].key == key {
			return &j.renderings[i]
		}
	}
	return nil
}

func (j *job) note(c *subscription.Compiled, v verdict, detail, deliveryID string) {
	j.out.entries = append(j.out.entries, event.DecisionEntry{
		SubscriptionID: c.ID, SubscriptionVersion: c.Version, Outcome: v.outcome, Reason: v.reason, Detail: detail, DeliveryID: deliveryID,
	})
}

// deliver writes the delivery record. Everything in its value comes from the event record, the subscription and the replay.
func (j *job) deliver(ctx context.Context, c *subscription.Compiled) error {
	s, e, delivery := c.Subscription, j.event, &j.delivery
	delivery.EventTopic, delivery.EventPartition, delivery.EventOffset = j.record.Topic, j.record.Partition, j.record.Offset
	if j.replayID != "" {
		delivery.ReplayID, delivery.ExpiresAt = j.replayID, time.Time{}
	}
	b := j.out.batch
	value, err := j.encode(ctx, b, delivery)
	if err != nil {
		return err
	}
	lane, partitions := j.lanes.find(ctx, s.Lane)
	from := len(b.headers)
	j.eventHeaders(b)
	b.header(kafka.HeaderSubscription, c.ID)
	b.number(kafka.HeaderSubscriptionVersion, c.Version)
	b.header(kafka.HeaderDelivery, delivery.ID)
	b.number(kafka.HeaderAcceptedAt, e.IngestedAt.UnixMicro())
	if j.replayID != "" {
		b.header(kafka.HeaderReplay, j.replayID)
	}
	if s.Ordering == subscription.OrderingPerCall && e.CallID != "" && j.record.Topic == topic.CallsEvents && j.replayID == "" {
		// The events of a call are in one partition, so their offsets are their order, whichever way a delivery takes.
		b.header(kafka.HeaderOrder, e.CallID)
		b.number(kafka.HeaderRank, j.record.Offset)
	}
	j.out.add(kgo.Record{
		Topic: lane, Partition: topic.PartitionFor(c.ID, e.CallID, s.Spread, partitions),
		Key: b.text(c.ID), Value: value, Headers: b.headers[from:len(b.headers):len(b.headers)],
	})
	return nil
}

// eventHeaders adds the headers that say which event a record is about.
func (j *job) eventHeaders(b *batch) {
	e := j.event
	b.header(kafka.HeaderTenant, e.Tenant)
	b.header(kafka.HeaderType, e.Type)
	b.header(kafka.HeaderID, e.ID)
	b.header(kafka.HeaderSource, e.Source)
	if t := j.traceparent(); t != "" {
		b.header(kafka.HeaderTraceparent, t)
	}
}

// traceparent is the context that whoever reads a record of ours continues.
func (j *job) traceparent() string {
	if j.out.traceparent != "" {
		return j.out.traceparent
	}
	return j.event.Traceparent
}

// decisions writes what was decided about the event, if anything was, and forgets it. It is called at the end, and before
// that whenever a record of decisions is full.
func (j *job) decisions(ctx context.Context) error {
	if len(j.out.entries) == 0 {
		return nil
	}
	e := j.event
	j.out.decision = event.Decision{
		Tenant: e.Tenant, EventID: e.ID, EventType: e.Type, Source: e.Source, CallID: e.CallID, AgentID: e.AgentID,
		EventTime: e.Time, AcceptedAt: e.IngestedAt,
		EventTopic: j.record.Topic, EventPartition: j.record.Partition, EventOffset: j.record.Offset,
		DecidedAt: j.at, ReplayID: j.replayID, Decisions: j.out.entries,
	}
	b := j.out.batch
	value, err := j.encode(ctx, b, &j.out.decision)
	if err != nil {
		return err
	}
	j.metrics.decided(j.out.entries)
	clear(j.out.entries)
	j.out.entries = j.out.entries[:0]
	from := len(b.headers)
	j.eventHeaders(b)
	j.out.add(kgo.Record{
		Topic: topic.Decisions, Key: e.Key(), Value: value, Headers: b.headers[from:len(b.headers):len(b.headers)],
	})
	return nil
}

// die notes that a delivery could not be made, and writes its dead letter.
func (j *job) die(ctx context.Context, c *subscription.Compiled, reason, detail string) error {
	e := j.event
	id := event.DeliveryID(e.Tenant, e.Source, e.ID, c.ID)
	j.note(c, verdict{outcomeDead, reason}, detail, id)
	letter := j.letter(j.record, reason, detail)
	letter.Tenant, letter.SubscriptionID, letter.SubscriptionVersion, letter.DeliveryID = e.Tenant, c.ID, c.Version, id
	letter.EventID, letter.EventType, letter.Source, letter.CallID = e.ID, e.Type, e.Source, e.CallID
	letter.Traceparent, letter.ErrorClass = j.traceparent(), reason
	return j.emitLetter(ctx, letter, []byte(c.ID), j.out)
}
