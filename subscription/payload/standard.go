package payload

import (
	"strconv"

	"github.com/callstream/callstream/schemas/event"
)

// AppendStandard appends the body of the profile standard, the shape that Standard Webhooks recommends: "type",
// "timestamp", "id", "tenant", "source", "call_id", "agent_id", "sequence", "test" and "data" in this order, then
// "attributes" and the root members that the catalogue does not declare. What the event lacks is omitted, but for data. An
// undeclared member named "timestamp" gives way to the event's time.
func AppendStandard(dst []byte, e *event.Event) []byte {
	dst = append(dst, `{"type":`...)
	dst = event.AppendString(dst, e.Type)
	if !e.Time.IsZero() {
		dst = append(dst, `,"timestamp":`...)
		dst = e.AppendTime(dst)
	}
	dst = appendMember(dst, `,"id":`, e.ID)
	dst = appendMember(dst, `,"tenant":`, e.Tenant)
	dst = appendMember(dst, `,"source":`, e.Source)
	dst = appendMember(dst, `,"call_id":`, e.CallID)
	dst = appendMember(dst, `,"agent_id":`, e.AgentID)
	if e.HasSequence || e.Sequence != 0 {
		dst = append(dst, `,"sequence":`...)
		dst = strconv.AppendInt(dst, e.Sequence, 10)
	}
	if e.HasTest || e.Test {
		dst = append(dst, `,"test":`...)
		dst = strconv.AppendBool(dst, e.Test)
	}
	dst = append(dst, `,"data":`...)
	dst = e.AppendData(dst)
	if len(e.Attributes) > 0 {
		dst = append(dst, `,"attributes":{`...)
		for i, a := range e.Attributes {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = event.AppendString(dst, a.Name)
			dst = append(dst, ':')
			dst = event.AppendString(dst, a.Value)
		}
		dst = append(dst, '}')
	}
	dst = e.AppendUndeclared(dst, "timestamp")
	return append(dst, '}')
}

func appendMember(dst []byte, key, value string) []byte {
	if value == "" {
		return dst
	}
	return event.AppendString(append(dst, key...), value)
}
