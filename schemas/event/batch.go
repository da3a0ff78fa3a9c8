package event

import "encoding/binary"

// BatchID is the webhook-id of a batch: "msg_" and 128 bits of SHA-256 over the ids of its members in their order, each
// behind its length, in lower-case base32. A batch of one has the id of its member, so that it has the same whenever it is
// made again.
func BatchID(members ...string) string {
	if len(members) == 1 {
		return members[0]
	}
	var b []byte
	for _, id := range members {
		b = binary.AppendUvarint(b, uint64(len(id)))
		b = append(b, id...)
	}
	return shortHash("msg_", b)
}

// Member is the i-th member of a batch, as the delivery that it would be by itself; its body shares memory with the batch's.
func (r *Delivery) Member(i int) Delivery {
	m := &r.Members[i]
	d := Delivery{
		ID: m.ID, Tenant: r.Tenant, SubscriptionID: r.SubscriptionID, SubscriptionVersion: m.SubscriptionVersion,
		EventID: m.EventID, EventType: m.EventType, Source: m.Source, CallID: m.CallID, AgentID: m.AgentID,
		EventTime: m.EventTime, AcceptedAt: m.AcceptedAt, ExpiresAt: m.ExpiresAt, ContentType: m.ContentType, Method: r.Method,
		Traceparent: m.Traceparent, ReplayID: r.ReplayID, Test: m.Test, Lane: r.Lane,
		EventTopic: m.EventTopic, EventPartition: m.EventPartition, EventOffset: m.EventOffset, Sequence: m.Sequence,
	}
	// Whoever may write to the topics may write anything.
	if size := int64(len(r.Body)); m.BodyStart >= 0 && m.BodyLength >= 0 && m.BodyStart <= size && m.BodyLength <= size-m.BodyStart {
		d.Body = r.Body[m.BodyStart : m.BodyStart+m.BodyLength : m.BodyStart+m.BodyLength]
	}
	return d
}

// Of returns the delivery of that id that r is, or has as a member; false where it is neither.
func (r *Delivery) Of(id string) (Delivery, bool) {
	for i := range r.Members {
		if r.Members[i].ID == id {
			return r.Member(i), true
		}
	}
	return *r, r.ID == id
}
