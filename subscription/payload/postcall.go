package payload

import (
	"sync"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
)

// postCallLayout is the body of the profile post-call but for its callId: keys in the order that the receivers document.
var postCallLayout = sync.OnceValue(func() *layout { return newLayout(topic.CallsEvents, postCallReport) })

const postCallReport = `
recordingUri=recording_uri transcriptUri=transcript_uri
callerDetails{
  name=caller_name phoneNumber=caller_phone_number email=caller_email scheduledTime=caller_scheduled_time
  address=caller_address pincode=caller_pincode city=caller_city state=caller_state country=caller_country age=caller_age
  gender=caller_gender occupation=caller_occupation company=caller_company
  preferredContactMethod=caller_preferred_contact_method bestTimeToCall=caller_best_time_to_call language=caller_language
}
callAnalysis{
  summary=analysis_summary mood=analysis_mood score=analysis_score callOutcome=analysis_call_outcome
  classification=analysis_classification interestsAndNeeds=analysis_interests_and_needs actionItems=analysis_action_items
  sentiment=analysis_sentiment
}`

// AppendPostCall appends the body of the profile post-call, which has no envelope: who takes it knows a call by its
// callId. What the event lacks is omitted, and so is a group with nothing in it. Members beyond these are not sent.
func AppendPostCall(dst []byte, e *event.Event) []byte {
	dst = append(dst, '{')
	start := len(dst)
	if e.CallID != "" {
		dst = event.AppendString(append(dst, `"callId":`...), e.CallID)
		dst = append(dst, ',')
	}
	if l := postCallLayout(); e.Topic() == l.topic {
		dst = l.append(dst, e)
	}
	if len(dst) == start {
		return append(dst, '}')
	}
	dst[len(dst)-1] = '}' // in place of the last comma
	return dst
}
