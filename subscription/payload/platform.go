package payload

import "sync"

// platformShape is the profile platform: the same envelope around every kind of event, with readable event names, and the
// data as the catalogue names it.
var platformShape = sync.OnceValue(func() *shape {
	s := &shape{
		event: "event", id: "id", time: "timestamp", tenant: "tenant", source: "source", call: "call_id", agent: "agent_id",
		sequence: "sequence", test: "test", attributes: "attributes", whole: "data",
		types: map[string]string{
			"call.started":            "Call Started",
			"call.ringing":            "Call Ringing",
			"call.answered":           "Call Answered",
			"call.ended":              "Call Ended",
			"call.failed":             "Call Failed",
			"call.queued":             "Call Queued",
			"call.summary":            "Call Summary",
			"disposition.updated":     "Disposition Updated",
			"escalation.requested":    "Escalation Requested",
			"transcript.ready":        "Transcript Available",
			"recording.ready":         "Recording Ready",
			"quality.scored":          "Quality Score",
			"cost.calculated":         "Cost Calculated",
			"agent.status_changed":    "Agent Status Change",
			"agent.config_updated":    "Configuration Update",
			"agent.sync_changed":      "Sync Status",
			"agent.performance_alert": "Performance Alerts",
			"knowledge_base.updated":  "Knowledge Base Update",
			"phone_number.changed":    "Phone Number Changes",
			"user.action":             "User Actions",
			"system.maintenance":      "System Maintenance",
		},
	}
	return s.prepared(nil)
})
