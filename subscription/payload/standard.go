package payload

import (
	"strconv"

	"github.com/callstream/callstream/schemas/event"
)

// standardOwn is the one name of the profile that an undeclared member of the root could have. It is read-only.
var standardOwn = namesOf("timestamp")

// AppendStandard appends the body of the profile standard, the shape that Standard Webhooks recommends: "type",
// "timestamp", "id", "tenant", "source", "call_id", "agent_id", "sequence", "test" and "data" in this order, then
// "attributes" and the root members that the catalogue does not declare. What the event lacks is omitted, but for data.
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
	dst = appendAttributes(dst, `,"attributes":`, e.Attributes)
	dst = append(dst, ',')
	dst = appendUndeclared(dst, e, "", standardOwn)
	dst[len(dst)-1] = '}' // in place of the last comma
	return dst
}
