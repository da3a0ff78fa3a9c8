package traffic

import "time"

// disposition is an outcome that an agent can choose.
type disposition struct {
	name, code, kind, next, mood string
	lead                         bool
}

// sale is an outbound call that went well, with everything a call can leave behind.
func (c *call) sale() {
	d := pick(c, []disposition{
		{"qualified", "Q1", "positive", "send offer", "Positive", true},
		{"demo scheduled", "Q2", "positive", "hold demo", "Positive", true},
		{"not interested", "N1", "negative", "", "Neutral", false},
	})
	if c.number == 0 {
		d = disposition{"qualified", "Q1", "positive", "send offer", "Positive", true}
	}
	c.begin(false)
	c.answer("human")
	transcript := c.talk(c.script(salesTalk), 40, 420)
	c.after(2, 20)
	c.hangUp("completed", pick(c, []string{"agent", "customer"}))
	c.content(transcript, c.some(salesIntents, 1, 2))
	summary := c.customer.name + " talked about " + pick(c, interests) + "; outcome: " + d.name + "."
	c.wrapUp(d, summary)
	scheduled := ""
	if d.code == "Q2" {
		scheduled = "2026-03-" + itoa(10+c.r.IntN(18)) + "T10:00:00Z"
	}
	c.report(d, summary, "Sales Inquiry", scheduled)
	if d.lead {
		c.text("Thank you for your time! Our offer is on its way to " + c.customer.email + ".")
	}
}

// support is an inbound call about a problem that gets solved.
func (c *call) support() {
	d := pick(c, []disposition{
		{"resolved", "S1", "positive", "", "Positive", false},
		{"follow-up needed", "S2", "neutral", "call back", "Neutral", false},
	})
	c.begin(true)
	c.answer("human")
	transcript := c.talk(c.script(supportTalk), 60, 600)
	c.after(2, 20)
	c.hangUp("completed", "customer")
	c.content(transcript, c.some(supportIntents, 1, 3))
	summary := c.customer.name + " asked about " + pick(c, supportIntents) + "; " + d.name + "."
	c.wrapUp(d, summary)
	if c.chance(60) {
		c.report(d, summary, "Support", "")
	}
}

// voicemail is an outbound call that a machine takes.
func (c *call) voicemail() {
	c.begin(false)
	c.answer("machine")
	c.after(4, 25)
	c.hangUp("voicemail", "agent")
	c.cost()
	c.after(2, 15)
	skipped := c.chance(30)
	c.emit("disposition.updated", func(o *object) {
		o.text("disposition", "voicemail")
		o.text("disposition_code", "V1")
		o.text("disposition_kind", "neutral")
		o.boolean("outcome_skipped", skipped)
	})
	if !skipped {
		c.text("We tried to reach you. Call us back any time at " + c.line + ".")
	}
}

// noAnswer is an outbound call that nobody takes, or that can't be put through.
func (c *call) noAnswer() {
	c.begin(false)
	failure := pick(c, []struct{ reason, code, message string }{
		{"no_answer", "480", "Temporarily Unavailable"},
		{"busy", "486", "Busy Here"},
		{"unreachable", "404", "Not Found"},
	})
	c.ended = c.now
	c.emit("call.failed", func(o *object) {
		c.parties(o, "failed")
		o.time("started_at", c.started)
		o.time("ended_at", c.ended)
		o.milliseconds("duration_ms", c.ended-c.started)
		o.milliseconds("ring_ms", c.ring)
		o.text("end_reason", failure.reason)
		o.text("error_code", failure.code)
		o.text("error_message", failure.message)
	})
}

// abandoned is an inbound call whose caller gives up in the queue.
func (c *call) abandoned() {
	c.inbound = true
	position := int64(3 + c.r.IntN(12))
	c.emit("call.queued", func(o *object) {
		c.parties(o, "queued")
		o.text("route", pick(c, routes))
		o.number("queue_position", position)
	})
	c.wait = c.seconds(15, 300)
	c.now += c.wait
	c.ended = c.now
	c.emit("call.ended", func(o *object) {
		c.parties(o, "abandoned")
		o.time("ended_at", c.ended)
		o.milliseconds("duration_ms", c.wait)
		o.milliseconds("wait_ms", c.wait)
		o.text("end_reason", "abandoned")
		o.text("ended_by", "customer")
	})
}

// transfer writes one step of handing the call on.
func (c *call) transfer(typ, mode, recipient, status string) {
	c.emit(typ, func(o *object) {
		c.parties(o, status)
		o.text("agent_name", c.agent.name)
		o.group("transfer", func(o *object) {
			o.text("to", "+1-212-555-0199")
			o.text("mode", mode)
			o.text("recipient", recipient)
			o.text("reason", pick(c, []string{"second level", "language", "authority"}))
		})
	})
}

// warmTransfer is an inbound call that a colleague takes over.
func (c *call) warmTransfer() {
	d := disposition{"resolved", "S1", "positive", "", "Positive", false}
	mode := pick(c, []string{"warm", "warm", "cold"})
	c.begin(true)
	c.answer("human")
	transcript := c.talk(c.script(supportTalk), 40, 240)
	next := agents[c.r.IntN(len(agents))]
	c.transfer("call.transfer_started", mode, next.name, "transferring")
	c.after(4, 40)
	c.transfer("call.transfer_bridged", mode, next.name, "bridged")
	c.after(20, 200)
	c.transfer("call.transfer_ended", mode, next.name, "transferred")
	c.agent = next
	c.after(10, 120)
	c.hangUp("completed", "customer")
	c.content(transcript, c.some(supportIntents, 1, 3))
	c.wrapUp(d, c.customer.name+" was handed on to "+next.name+"; "+d.name+".")
}

// escalation is an inbound call that goes wrong: the transfer is cancelled, and a person must look at it.
func (c *call) escalation() {
	d := disposition{"complaint", "X1", "negative", "manager calls", "Negative", false}
	c.begin(true)
	c.answer("human")
	transcript := c.talk(c.script(complaintTalk), 60, 400)
	c.transfer("call.transfer_started", "warm", "Duty manager", "transferring")
	c.after(10, 60)
	c.transfer("call.transfer_cancelled", "warm", "Duty manager", "in progress")
	c.after(5, 30)
	c.emit("escalation.requested", func(o *object) {
		o.text("priority", pick(c, []string{"high", "urgent"}))
		o.text("escalation_reason", pick(c, []string{"customer asked for a manager", "high-risk intent", "low confidence"}))
		o.boolean("risk_flag", true)
		o.texts("intents", "cancel contract", "complaint")
		o.decimal("intent_confidence", 0.4+0.5*c.r.Float64())
		o.text("case_id", "C-"+digits(c, 6))
	})
	c.after(10, 90)
	c.hangUp("completed", "customer")
	c.content(transcript, []string{"complaint", "cancel contract"})
	c.wrapUp(d, c.customer.name+" complained and wants to cancel. A manager will call.")
	c.after(5, 60)
	c.emit("review.flagged", func(o *object) {
		o.text("review_reason", "risk flag on the call")
		o.text("priority", "high")
		o.texts("tags", "compliance")
	})
}

// callback is an inbound call that ends with an appointment for another one.
func (c *call) callback() {
	d := disposition{"callback", "B1", "neutral", "call back", "Neutral", false}
	c.begin(true)
	c.answer("human")
	transcript := c.talk(c.script(supportTalk), 30, 180)
	c.hangUp("completed", "agent")
	c.content(transcript, []string{"callback"})
	c.after(2, 20)
	day := c.now.Truncate(time.Hour) + 24*time.Hour
	c.emit("callback.scheduled", func(o *object) {
		o.group("callback", func(o *object) {
			o.time("window_start", day)
			o.time("window_end", day+2*time.Hour)
			o.text("contact_token", c.model.id("tok_", c.number, 1))
		})
		o.text("scheduling_token", c.model.id("sch_", c.number, 1))
		o.text("priority", "normal")
		o.text("next_step", "call back")
	})
	c.wrapUp(d, c.customer.name+" wants to be called back tomorrow.")
	c.text("We will call you back tomorrow, as agreed.")
}

// claim is an inbound call that opens an insurance case.
func (c *call) claim() {
	d := disposition{"claim opened", "K1", "neutral", "send documents", "Neutral", false}
	c.begin(true)
	c.answer("human")
	transcript := c.talk(c.script(claimTalk), 120, 600)
	claim := "CLM-" + digits(c, 7)
	c.emit("case.requested", func(o *object) {
		o.text("case_id", "C-"+digits(c, 6))
		o.text("claim_id", claim)
		o.text("claim_status", "opened")
		o.text("priority", pick(c, []string{"normal", "high"}))
		o.text("next_step", "send documents")
		o.group("fields", func(o *object) {
			o.text("policy_number", "P-"+digits(c, 8))
			o.text("damage", pick(c, []string{"water", "storm", "collision", "theft"}))
			o.number("estimate", int64(500+100*c.r.IntN(90)))
			o.boolean("injuries", c.chance(5))
		})
	})
	c.after(5, 60)
	c.hangUp("completed", "customer")
	c.content(transcript, []string{"file a claim"})
	c.wrapUp(d, c.customer.name+" reported damage; "+claim+" is open.")
	c.report(d, c.customer.name+" reported damage.", "Claim", "")
}

// script is a conversation with the names filled in.
func (c *call) script(lines []string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = fill(l, c.customer.name, c.agent.name)
	}
	return out
}
