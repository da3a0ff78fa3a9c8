package traffic

import (
	"math/rand/v2"
	"slices"
	"time"
)

// call is a call while its flow is made up: the facts that all its events agree on, and the events so far.
type call struct {
	model  *Model
	number int64
	r      *rand.Rand

	id, session string
	inbound     bool
	customer    person
	agent       agent
	queue       string
	line        string // our own number
	now         time.Duration
	started     time.Duration
	answered    time.Duration
	ended       time.Duration
	wait, ring  time.Duration
	rung        bool // an agent is on it
	language    string

	sequence int64
	events   []Event
}

// person is a customer.
type person struct {
	name, phone, email, address, pincode, city, state, country string
	age, gender, occupation, company                           string
}

// agent is who talks to customers.
type agent struct{ id, name string }

func newCall(m *Model, number int64) *call {
	c := &call{model: m, number: number, r: rand.New(rand.NewPCG(m.Seed, uint64(number)))}
	c.id = m.hexID("call", number)
	c.session = m.id("ses_", number, 0)
	c.language = "English"
	c.agent = agents[c.r.IntN(len(agents))]
	c.line = lines[c.r.IntN(len(lines))]
	c.queue = queues[c.r.IntN(len(queues))]
	c.customer = c.person()
	return c
}

func (c *call) person() person {
	first, last := pick(c, firstNames), pick(c, lastNames)
	home := pick(c, homes)
	p := person{
		name: first.name + " " + last, email: lower(first.name) + "." + lower(last) + "@example.com",
		phone: c.phone(), city: home.city, state: home.state, country: home.country,
	}
	// Not every customer is known equally well.
	if c.chance(70) {
		p.address, p.pincode = digits(c, 3)+" "+pick(c, streets), home.pincode
	}
	if c.chance(50) {
		p.age, p.gender = itoa(20+c.r.IntN(60)), first.gender
	}
	if c.chance(40) {
		p.occupation, p.company = pick(c, occupations), pick(c, companies)
	}
	return p
}

// phone makes a number from the ranges reserved for fiction, written in one of the ways that people write them.
func (c *call) phone() string {
	n := c.r.IntN(100)
	two := string([]byte{byte('0' + n/10), byte('0' + n%10)})
	area := pick(c, []string{"212", "312", "415", "617", "713", "206", "303", "404"})
	switch c.r.IntN(3) {
	case 0:
		return "+1-" + area + "-555-01" + two
	case 1:
		return "+1" + area + "55501" + two
	default:
		return "+4477009001" + two
	}
}

// chance is true in percent of the cases.
func (c *call) chance(percent int) bool { return c.r.IntN(100) < percent }

// seconds draws a length of time, most often near the lower bound, as waiting times are.
func (c *call) seconds(low, high float64) time.Duration {
	x := c.r.Float64()
	return time.Duration((low + (high-low)*x*x) * float64(time.Second)).Truncate(time.Millisecond)
}

func pick[T any](c *call, list []T) T { return list[c.r.IntN(len(list))] }

// some picks between low and high different texts of the list, in its order.
func (c *call) some(list []string, low, high int) []string {
	n := low + c.r.IntN(high-low+1)
	places := c.r.Perm(len(list))[:min(n, len(list))]
	slices.Sort(places)
	out := make([]string, len(places))
	for i, p := range places {
		out[i] = list[p]
	}
	return out
}

// after lets time pass.
func (c *call) after(low, high float64) { c.now += c.seconds(low, high) }

// emit adds an event of this call at c.now.
func (c *call) emit(typ string, data func(*object)) {
	c.sequence++
	agentID := ""
	if c.rung {
		agentID = c.agent.id
	}
	c.add(typ, c.id, agentID, c.sequence, c.now, data)
}

// add adds an event of any kind.
func (c *call) add(typ, callID, agentID string, sequence int64, at time.Duration, data func(*object)) {
	at = max(at, 0).Truncate(time.Millisecond)
	id := c.model.id("evt_", c.number, len(c.events)+1)
	o := &object{b: make([]byte, 0, 1024)}
	o.b = append(o.b, '{')
	o.text("id", id)
	o.text("type", typ)
	o.time("time", at)
	o.text("source", c.model.Source)
	o.text("call_id", callID)
	o.text("agent_id", agentID)
	if sequence > 0 {
		o.number("sequence", sequence)
	}
	o.group("data", data)
	o.b = append(o.b, '}')
	c.events = append(c.events, Event{ID: id, Type: typ, CallID: callID, At: at, JSON: o.b, stamps: o.stamps})
}

// flow ends the making: the events in the order of time.
func (c *call) flow(scenario string) Flow {
	slices.SortStableFunc(c.events, func(a, b Event) int { return int(a.At - b.At) })
	f := Flow{Scenario: scenario, Events: c.events}
	if n := len(c.events); n > 0 {
		f.Length = c.events[n-1].At
	}
	return f
}

// parties writes what every lifecycle event says about the call.
func (c *call) parties(o *object, status string) {
	direction, from, fromName, to, toName := "outbound", c.line, "", c.customer.phone, c.customer.name
	if c.inbound {
		direction, from, fromName, to, toName = "inbound", to, toName, from, ""
	}
	o.text("direction", direction)
	o.text("status", status)
	o.text("from_number", from)
	o.text("from_name", fromName)
	o.text("to_number", to)
	o.text("to_name", toName)
	o.text("session_id", c.session)
	if c.inbound {
		o.text("queue", c.queue)
	} else {
		o.text("campaign_id", "spring-"+c.queue)
	}
}

// begin queues an inbound call or dials an outbound one, and lets it ring at the other end.
func (c *call) begin(inbound bool) {
	c.inbound = inbound
	if inbound {
		position := int64(1 + c.r.IntN(9))
		c.emit("call.queued", func(o *object) {
			c.parties(o, "queued")
			o.text("route", pick(c, routes))
			o.number("queue_position", position)
		})
		c.wait = c.seconds(2, 90)
		c.now += c.wait
	}
	c.started = c.now
	c.emit("call.started", func(o *object) {
		c.parties(o, "started")
		o.time("started_at", c.started)
		if inbound {
			o.milliseconds("wait_ms", c.wait)
		}
	})
	c.after(0.2, 2)
	c.rung = true
	c.emit("call.ringing", func(o *object) {
		c.parties(o, "ringing")
		o.text("agent_name", c.agent.name)
		o.time("started_at", c.started)
	})
	c.ring = c.seconds(2, 25)
	c.now += c.ring
}

// answer connects the call.
func (c *call) answer(by string) {
	c.answered = c.now
	c.emit("call.answered", func(o *object) {
		c.parties(o, "answered")
		o.text("agent_name", c.agent.name)
		o.text("answered_by", by)
		o.time("started_at", c.started)
		o.time("answered_at", c.answered)
		o.milliseconds("ring_ms", c.ring)
		o.texts("participants", c.line, c.customer.phone)
	})
	if by == "human" && c.chance(30) {
		at := c.now
		c.add("agent.status_changed", "", c.agent.id, 0, at, func(o *object) {
			o.text("agent_name", c.agent.name)
			o.text("status", "busy")
			o.text("previous_status", "available")
			o.text("reason", "on a call")
		})
	}
}

// hangUp ends a call that was answered.
func (c *call) hangUp(reason, by string) {
	c.ended = c.now
	c.emit("call.ended", func(o *object) {
		c.parties(o, "ended")
		o.text("agent_name", c.agent.name)
		o.time("started_at", c.started)
		if c.answered > 0 {
			o.time("answered_at", c.answered)
		}
		o.time("ended_at", c.ended)
		o.milliseconds("duration_ms", c.ended-c.started)
		if c.answered > 0 {
			o.milliseconds("talk_ms", c.ended-c.answered)
		}
		o.milliseconds("ring_ms", c.ring)
		o.text("end_reason", reason)
		o.text("ended_by", by)
	})
}

// talk lets the parties speak, with partial transcripts on the way, and returns the whole transcript.
func (c *call) talk(script []string, low, high float64) string {
	said := script
	if len(script) > 8 {
		said = script[:8+c.r.IntN(len(script)-7)]
	}
	parts := 1 + c.r.IntN(3)
	for i := range parts {
		c.after(low/float64(parts), high/float64(parts))
		upTo := max(1, len(said)*(i+1)/parts)
		snippet := said[upTo-1]
		c.emit("transcript.updated", func(o *object) {
			o.boolean("is_partial", true)
			o.text("transcript_snippet", snippet)
			o.decimal("transcript_confidence", 0.7+0.25*c.r.Float64())
			o.text("language", c.language)
		})
	}
	text := make([]byte, 0, 1024)
	for i, line := range said {
		if i > 0 {
			text = append(text, '\n')
		}
		text = append(text, line...)
	}
	return string(text)
}

// content is what the platform works out after a call: transcript, recording, quality and cost.
func (c *call) content(transcript string, intents []string) {
	confidence := 0.78 + 0.21*c.r.Float64()
	c.after(1, 8)
	c.emit("transcript.ready", func(o *object) {
		o.text("transcript_text", transcript)
		o.text("transcript_uri", "https://storage.example.com/transcripts/transcript_"+c.id+".json")
		o.decimal("transcript_confidence", confidence)
		o.text("language", c.language)
		o.texts("intents", intents...)
		o.decimal("intent_confidence", 0.6+0.4*c.r.Float64())
	})
	c.after(0.5, 6)
	c.emit("recording.ready", func(o *object) {
		o.text("recording_uri", c.recording())
		o.text("recording_format", "ogg")
		o.milliseconds("recording_duration_ms", c.ended-c.answered)
	})
	c.after(0.5, 10)
	score := c.score()
	c.emit("quality.scored", func(o *object) {
		o.decimal("score", score)
		o.group("scorecard", func(o *object) {
			o.number("greeting", int64(3+c.r.IntN(3)))
			o.number("listening", int64(2+c.r.IntN(4)))
			o.number("resolution", int64(1+c.r.IntN(5)))
			o.boolean("disclosure_read", c.chance(93))
		})
		o.texts("tags", c.some(qualityTags, 1, 3)...)
	})
	c.cost()
}

func (c *call) recording() string {
	return "https://storage.example.com/recordings/" + c.id + "/call_recording.ogg"
}

func (c *call) score() float64 { return float64(110+c.r.IntN(91)) / 2 }

// cost prices the call by the second.
func (c *call) cost() {
	c.after(0.2, 3)
	talked := c.ended - max(c.answered, c.started)
	c.emit("cost.calculated", func(o *object) {
		o.number("cost_micros", 2000+talked.Milliseconds()*14/10)
		o.text("currency", "USD")
		o.milliseconds("duration_ms", c.ended-c.started)
	})
}

// wrapUp is what the agent does after the call.
func (c *call) wrapUp(d disposition, summary string) {
	c.after(3, 45)
	c.emit("disposition.updated", func(o *object) {
		o.text("disposition", d.name)
		o.text("disposition_code", d.code)
		o.text("disposition_kind", d.kind)
		o.text("agent_name", c.agent.name)
		if d.lead {
			o.text("lead_id", "L-"+digits(c, 6))
		}
		o.text("next_step", d.next)
	})
	c.after(1, 20)
	c.emit("call.summary", func(o *object) {
		o.text("disposition", d.name)
		o.text("disposition_code", d.code)
		o.text("disposition_kind", d.kind)
		o.milliseconds("duration_ms", c.ended-c.started)
		o.text("agent_name", c.agent.name)
		o.text("notes", pick(c, notes))
		o.text("ai_summary", summary)
		o.texts("tags", c.some(callTags, 0, 2)...)
		if c.chance(30) {
			// What a source system adds of its own: no type declares it, and it must come through all the same.
			o.group("crm", func(o *object) {
				o.text("contact_id", "003"+digits(c, 9))
				o.boolean("synced", c.chance(90))
			})
		}
	})
	if c.chance(30) {
		c.after(0.1, 2)
		c.add("agent.status_changed", "", c.agent.id, 0, c.now, func(o *object) {
			o.text("agent_name", c.agent.name)
			o.text("status", "available")
			o.text("previous_status", "wrapping_up")
		})
	}
}

// report is the whole call in one event.
func (c *call) report(d disposition, summary, classification, scheduled string) {
	c.after(2, 20)
	mood := d.mood
	c.emit("call.report", func(o *object) {
		o.text("recording_uri", c.recording())
		o.text("transcript_uri", "https://storage.example.com/transcripts/transcript_"+c.id+".json")
		o.milliseconds("duration_ms", c.ended-c.started)
		p := c.customer
		o.group("caller", func(o *object) {
			o.text("name", p.name)
			o.text("phone_number", p.phone)
			o.text("email", p.email)
			o.text("scheduled_time", scheduled)
			o.text("address", p.address)
			o.text("pincode", p.pincode)
			o.text("city", p.city)
			o.text("state", p.state)
			o.text("country", p.country)
			o.text("age", p.age)
			o.text("gender", p.gender)
			o.text("occupation", p.occupation)
			o.text("company", p.company)
			if c.chance(50) {
				o.text("preferred_contact_method", pick(c, []string{"phone", "email", "sms"}))
				o.text("best_time_to_call", pick(c, []string{"mornings", "after 17:00", "weekends"}))
			}
			o.text("language", c.language)
		})
		o.group("analysis", func(o *object) {
			o.text("summary", summary)
			o.text("mood", mood)
			o.decimal("score", c.score())
			o.text("call_outcome", d.name)
			o.text("classification", classification)
			if c.chance(60) {
				o.group("interests_and_needs", func(o *object) {
					o.texts("interests", c.some(interests, 1, 3)...)
					o.text("budget", pick(c, []string{"open", "below 500 a month", "approved"}))
				})
			}
			o.group("action_items", func(o *object) {
				o.text("agent", pick(c, []string{"send the offer", "check the invoice", "book the slot"}))
				o.number("due_days", int64(1+c.r.IntN(7)))
			})
			o.group("sentiment", func(o *object) {
				positive := c.r.Float64()
				o.decimal("positive", positive)
				o.decimal("negative", (1-positive)*c.r.Float64())
			})
		})
	})
}

// text sends the customer an SMS after the call; sometimes there is an answer.
func (c *call) text(body string) {
	c.after(5, 60)
	sms := func(typ, direction, from, to, body, status string, n int) {
		id := c.model.id("sms_", c.number, n)
		c.add(typ, c.id, c.agent.id, 0, c.now, func(o *object) {
			o.text("direction", direction)
			o.text("from_number", from)
			o.text("to_number", to)
			o.text("body", body)
			o.text("status", status)
			o.text("message_id", id)
			o.text("channel", "sms")
			o.number("segments", int64(1+len(body)/153))
		})
	}
	sms("sms.sent", "outbound", c.line, c.customer.phone, body, "delivered", 1)
	if c.number == 0 || c.chance(50) {
		c.after(10, 120)
		sms("sms.received", "inbound", c.customer.phone, c.line, pick(c, replies), "received", 2)
	}
}
