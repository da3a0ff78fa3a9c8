package traffic

import "time"

// aside adds what happens beside the calls, by the flow's place in its block, so that every block has all of it.
func (c *call) aside(place int) {
	half := c.now / 2
	switch place {
	case 2:
		c.add("agent.status_changed", "", c.agent.id, 0, 0, func(o *object) {
			o.text("agent_name", c.agent.name)
			o.text("status", "available")
			o.text("previous_status", "offline")
			o.text("reason", "shift begins")
		})
	case 3, 11:
		c.chat()
	case 5:
		c.add("agent.config_updated", "", c.agent.id, 0, half, func(o *object) {
			o.text("agent_name", c.agent.name)
			o.group("changes", func(o *object) {
				o.group("greeting", func(o *object) {
					o.text("from", "Good day!")
					o.text("to", pick(c, []string{"Hello, how can I help?", "Thank you for calling!"}))
				})
				o.group("max_call_minutes", func(o *object) {
					o.number("from", 30)
					o.number("to", int64(10+5*c.r.IntN(10)))
				})
			})
			o.text("changed_by", "u-"+digits(c, 3))
			o.text("config_version", itoa(1+c.r.IntN(200)))
		})
	case 9:
		c.add("agent.sync_changed", "", c.agent.id, 0, half, func(o *object) {
			o.text("agent_name", c.agent.name)
			o.text("status", pick(c, []string{"synced", "synced", "failed"}))
			o.text("previous_status", "syncing")
		})
	case 13:
		c.add("agent.performance_alert", "", c.agent.id, 0, half, func(o *object) {
			o.text("agent_name", c.agent.name)
			o.text("metric", pick(c, []string{"average_handle_time", "transfer_rate", "silence_ratio"}))
			o.decimal("threshold", 0.25)
			o.decimal("observed", 0.26+0.5*c.r.Float64())
			o.text("severity", pick(c, []string{"warning", "critical"}))
			o.time("window_start", 0)
			o.time("window_end", half)
		})
	case 7:
		c.add("knowledge_base.updated", "", "", 0, half, func(o *object) {
			o.text("resource_type", "knowledge_base")
			o.text("resource_id", "kb-"+digits(c, 3))
			o.text("resource_name", pick(c, []string{"Prices", "Returns", "Opening hours"}))
			o.text("action", pick(c, []string{"created", "updated", "deleted"}))
			o.text("user_id", "u-"+digits(c, 3))
			o.group("details", func(o *object) { o.number("documents", int64(1+c.r.IntN(40))) })
		})
	case 15:
		c.add("phone_number.changed", "", "", 0, half, func(o *object) {
			o.text("resource_type", "phone_number")
			o.text("resource_id", "pn-"+digits(c, 4))
			o.text("phone_number", c.line)
			o.text("action", pick(c, []string{"assigned", "released", "rerouted"}))
			o.text("status", "active")
		})
	case 1, 17:
		c.add("user.action", "", "", 0, half, func(o *object) {
			user := "u-" + digits(c, 3)
			o.text("resource_type", pick(c, []string{"campaign", "agent", "subscription"}))
			o.text("resource_id", "r-"+digits(c, 4))
			o.text("user_id", user)
			o.text("action", pick(c, []string{"login", "export", "edit", "delete"}))
			o.group("details", func(o *object) { o.text("ip", "192.0.2."+itoa(1+c.r.IntN(254))) })
		})
	case 19:
		c.add("system.maintenance", "", "", 0, half, func(o *object) {
			o.text("resource_type", "system")
			o.text("resource_id", "telephony-eu")
			o.text("status", pick(c, []string{"scheduled", "started", "finished"}))
			o.text("description", "Rolling update of the media servers; calls go on.")
			o.time("window_start", half+24*time.Hour)
			o.time("window_end", half+26*time.Hour)
			o.texts("affected_resources", "telephony-eu", "recordings")
		})
	}
}

// chat is a conversation on the web site, beside any call.
func (c *call) chat() {
	id := c.model.id("cht_", c.number, 1)
	visitor := c.person()
	length := c.seconds(30, 600)
	start := c.now / 3
	c.add("chat.started", "", c.agent.id, 0, start, func(o *object) {
		o.text("chat_id", id)
		o.text("channel", pick(c, []string{"web", "whatsapp", "messenger"}))
		o.text("status", "open")
		o.text("from_name", visitor.name)
		o.text("agent_name", c.agent.name)
		o.time("started_at", start)
		o.text("language", c.language)
	})
	c.add("chat.ended", "", c.agent.id, 0, start+length, func(o *object) {
		o.text("chat_id", id)
		o.text("status", "closed")
		o.text("from_name", visitor.name)
		o.text("agent_name", c.agent.name)
		o.time("started_at", start)
		o.time("ended_at", start+length)
		o.milliseconds("duration_ms", length)
		o.number("message_count", int64(2+c.r.IntN(30)))
		o.text("end_reason", pick(c, []string{"solved", "timeout", "handed to a call"}))
		o.texts("tags", c.some(callTags, 0, 2)...)
	})
}
