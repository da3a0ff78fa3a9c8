package payload

import (
	"sync"

	"github.com/callstream/callstream/schemas/topic"
)

// pushShape is the profile push: a call record whose parts are arranged by what they are for, with metadata, transcript,
// disposition, escalation and so on. Its names of event types are the catalogue's. The data of events that aren't a
// call's comes as it is.
var pushShape = sync.OnceValue(func() *shape {
	s := &shape{
		event: "event_type", id: "event_id", time: "timestamp", tenant: "tenant", source: "source", call: "call_id", agent: "agent_id",
		sequence: "sequence", test: "test", attributes: "attributes", data: "data", whole: "data",
	}
	return s.prepared(map[string]string{topic.CallsEvents: pushCallRecord})
})

const pushCallRecord = `
metadata{
  direction status
  caller{ number=from_number name=from_name }
  callee{ number=to_number name=to_name }
  caller_details{
    name=caller_name phone_number=caller_phone_number email=caller_email scheduled_time=caller_scheduled_time
    address=caller_address pincode=caller_pincode city=caller_city state=caller_state country=caller_country age=caller_age
    gender=caller_gender occupation=caller_occupation company=caller_company
    preferred_contact_method=caller_preferred_contact_method best_time_to_call=caller_best_time_to_call
    language=caller_language +caller
  }
  participants agent_name campaign_id session_id leg_id parent_call_id language
  started_at answered_at ended_at duration_ms wait_ms ring_ms talk_ms hold_ms
  end_reason ended_by answered_by error_code error_message cost_micros currency
}
routing{ route queue queue_position }
transfer{ to=transfer_to mode=transfer_mode recipient=transfer_recipient reason=transfer_reason +transfer }
transcript{ text=transcript_text snippet=transcript_snippet uri=transcript_uri confidence=transcript_confidence is_partial }
recording{ uri=recording_uri format=recording_format duration_ms=recording_duration_ms }
intents intent_confidence tags
disposition{ label=disposition code=disposition_code kind=disposition_kind outcome_skipped notes ai_summary }
escalation{ reason=escalation_reason risk_flag }
priority next_step
review{ reason=review_reason }
quality{ score scorecard }
callback{
  window_start=callback_window_start window_end=callback_window_end contact_token=callback_contact_token
  scheduling_token +callback
}
case{ case_id lead_id claim_id claim_status }
extracted_fields=fields
analysis{
  summary=analysis_summary mood=analysis_mood score=analysis_score call_outcome=analysis_call_outcome
  classification=analysis_classification interests_and_needs=analysis_interests_and_needs
  action_items=analysis_action_items sentiment=analysis_sentiment +analysis
}
+data`
