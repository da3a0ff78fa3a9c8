// Package event is the one codec of callstream's records: events between JSON, Avro and memory, and the records of the
// pipeline between Avro and memory. No other package knows the encoding.
//
// An event keeps every value that it came with. Fields that the schemas declare become columns, in the type of the
// column; members that they do not declare, at the root, in data or in a declared group, travel as raw JSON in the column
// extra_json, by JSON pointer, and come out where they were. A number or time that its column cannot hold exactly is
// rounded there and keeps its spelling in extra_json, which wins on output.
package event

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/callstream/callstream/schemas/topic"
)

//go:generate go run ../internal/gen/cmd/gen -schemas ../avro -out .

// Event is one event, as Parse or Codec.DecodeEvent made it or as a program put it together: a literal with at least
// Type and Tenant, and SetData. It is not safe for concurrent use until Map has been called once; from then on reading is.
type Event struct {
	ID          string
	Type        string
	Tenant      string
	Source      string
	CallID      string
	AgentID     string
	Time        time.Time // when it happened; whole microseconds are kept
	IngestedAt  time.Time // when callstream accepted it; a column, not part of the event's JSON
	Sequence    int64
	HasSequence bool // tells a sequence of 0 from none
	Test        bool
	HasTest     bool // tells "test": false from none
	Traceparent string
	Attributes  []Attribute // in the order they came in; names don't repeat

	timeText string // the spelling of a time that microseconds don't hold; counts while Time is the nearest to it
	table    *table
	index    [maxFields]uint8 // of each declared field: 1 + its place in values, 0 where absent
	values   []value
	lists    [][]string
	extras   []extra
	cached   map[string]any
}

// Attribute is a free label of an event.
type Attribute struct{ Name, Value string }

// Kind is the type of a declared field.
type Kind uint8

// The kinds of declared fields. Times and objects are strings in Avro: a time keeps its spelling, an object is raw JSON.
const (
	KindString Kind = iota
	KindTime
	KindLong
	KindDouble
	KindBool
	KindStrings
	KindObject
)

// String names the kind as a fault does: "a string", "a whole number".
func (k Kind) String() string {
	switch k {
	case KindTime:
		return "a time (RFC 3339)"
	case KindLong:
		return "a whole number"
	case KindDouble:
		return "a number"
	case KindBool:
		return "true or false"
	case KindStrings:
		return "an array of strings"
	case KindObject:
		return "an object"
	}
	return "a string"
}

// Field describes one declared field of an event topic.
type Field struct {
	Column  string // in the Avro record and the warehouse: caller_phone_number
	Pointer string // in the event's JSON: /data/caller/phone_number
	Kind    Kind
	PII     string // phone, email, name, address, speech or payment, or several with spaces between; empty where it holds no personal data
	Doc     string
}

// Fields returns the declared data fields of an event topic in the order of its schema, nil for any other topic.
func Fields(topic string) []Field {
	t := tableOfTopic(topic)
	if t == nil {
		return nil
	}
	fields := make([]Field, len(t.fields))
	for i := range t.fields {
		fields[i] = t.fields[i].Field
	}
	return fields
}

// Types returns the event types of an event topic in the order of its schema.
func Types(topic string) []string { return typeNames(topic) }

// TopicOf returns the topic of an event type, empty for one that isn't in the catalogue.
func TopicOf(typ string) string {
	if t := tableOf(typ); t != nil {
		return t.topic
	}
	return ""
}

const (
	maxFields = 160
	// usualFields is room for the declared fields of most events.
	usualFields = 32
	groupBase   = 1000 // find returns this plus the group's number for a group

	nodeRoot  = 0
	nodeData  = 1
	nodeGroup = 2 // plus the group's number
)

// table is what the generator knows of one event record.
type table struct {
	topic  string
	schema string
	fields []tableField
	groups []group
	find   func(node int, name string) int // a field's number, groupBase plus a group's, or -1
}

type tableField struct {
	Field
	name string // its own, inside its node
	key  string // quoted, with the colon
	node int
}

// group is a JSON object whose members are columns of their own, which stand together in the schema.
type group struct {
	name, key, pointer string
	lo, hi             int
}

func tableOfTopic(name string) *table {
	for _, t := range tables {
		if t.topic == name {
			return t
		}
	}
	return nil
}

// value is one declared field that is present.
type value struct {
	n uint64 // the bits of a double, a long, 0 or 1 of a boolean, the place in lists of an array
	s string // the text, the raw JSON of an object, or the spelling of a double that isn't exact
}

// extra is one member that the schema doesn't declare.
type extra struct {
	node int
	name string
	raw  string
}

func (e *Event) set(field int, v value) {
	e.values = append(e.values, v)
	e.index[field] = uint8(len(e.values))
}

// fieldTable returns the event's table: that of the topic it was read from, or that of its type; nil for an unknown type.
func (e *Event) fieldTable() *table {
	if e.table == nil {
		e.table = tableOf(e.Type)
	}
	return e.table
}

// Topic is the topic that the event belongs to: the one it was read from, or its type's in the catalogue, or "".
func (e *Event) Topic() string {
	if t := e.fieldTable(); t != nil {
		return t.topic
	}
	return ""
}

// Key is the event's record key: tenant and call, chat or message, agent, resource or subscription, by the rule of its
// topic. An event that lacks the entity is keyed by its id: it has no order to keep and should not crowd one partition.
func (e *Event) Key() []byte {
	var entity string
	switch e.Topic() {
	case topic.CallsEvents:
		entity = e.CallID
	case topic.MessagesEvents:
		if entity = e.text("chat_id"); entity == "" {
			entity = e.text("message_id")
		}
	case topic.AgentsEvents:
		entity = e.AgentID
	case topic.SystemEvents:
		entity = e.text("resource_id")
	case topic.OwnEvents:
		entity = e.text("subscription_id")
	}
	if entity == "" {
		entity = e.ID
	}
	return topic.EventKey(e.Tenant, entity)
}

// text is the value of a string member of data, empty where it is absent.
func (e *Event) text(name string) string {
	t := e.fieldTable()
	if f := t.find(nodeData, name); f >= 0 && f < groupBase && e.index[f] != 0 {
		return e.values[e.index[f]-1].s
	}
	return ""
}

// SetData replaces the event's data by a JSON object, which is parsed by the rules of Parse for the event's type. It
// returns a *SyntaxError, or Faults with pointers from the event's root ("/data/score"), and then leaves the data empty.
func (e *Event) SetData(raw []byte) error {
	e.clearData()
	p := parser{b: raw, s: string(raw), e: e, t: e.fieldTable()}
	if !p.checkUTF8() {
		return p.err
	}
	p.push("data")
	p.space()
	p.data(2)
	p.end()
	if p.err == nil && p.t == nil {
		p.path = p.path[:0]
		p.faultAt("/type", "is not an event type of the catalogue")
	}
	if err := p.result(); err != nil {
		e.clearData()
		return err
	}
	return nil
}

func (e *Event) clearData() {
	e.index, e.values, e.lists, e.cached = [maxFields]uint8{}, nil, nil, nil
	kept := e.extras[:0]
	for _, x := range e.extras {
		if x.node == nodeRoot {
			kept = append(kept, x)
		}
	}
	e.extras = kept
}

// maxName is the longest identifier, in bytes: ids become Kafka headers, HTTP headers and database keys.
const maxName = 256

// Check returns what is wrong with the event by the rules that the wire doesn't enforce: a type that isn't of the topic,
// a missing tenant or call_id, identifiers that are too long or hold control characters, times that aren't RFC 3339.
// Parse has checked all of this but the tenant; an event that someone else put on a topic has not been checked at all.
func (e *Event) Check() Faults {
	var faults Faults
	if e.Tenant == "" {
		faults = append(faults, Fault{"/tenant", "is required"})
	}
	faults = e.checkEnvelope(faults)
	if t := e.table; t != nil {
		for i := range t.fields {
			if t.fields[i].Kind == KindTime && e.index[i] != 0 {
				if _, _, ok := parseTime(e.values[e.index[i]-1].s); !ok {
					faults = append(faults, Fault{t.fields[i].Pointer, "must be " + KindTime.String()})
				}
			}
		}
	}
	return faults
}

func (e *Event) checkEnvelope(faults Faults) Faults {
	switch t := tableOf(e.Type); {
	case e.Type == "":
		faults = append(faults, Fault{"/type", "is required"})
	case t == nil:
		faults = append(faults, Fault{"/type", "is not an event type of the catalogue"})
	case e.table != nil && e.table != t:
		faults = append(faults, Fault{"/type", "belongs to the topic " + t.topic})
	case t.topic == topic.CallsEvents && e.CallID == "":
		faults = append(faults, Fault{"/call_id", "is required for " + e.Type})
	}
	for _, name := range [...]struct{ pointer, value string }{{"/id", e.ID}, {"/type", e.Type}, {"/tenant", e.Tenant}, {"/source", e.Source},
		{"/call_id", e.CallID}, {"/agent_id", e.AgentID}, {"/traceparent", e.Traceparent}} {
		if len(name.value) > maxName {
			faults = append(faults, Fault{name.pointer, fmt.Sprintf("is longer than %d bytes", maxName)})
		} else if hasControl(name.value) {
			faults = append(faults, Fault{name.pointer, "holds a control character"})
		}
	}
	return faults
}

func hasControl(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] >= 0x7f { // rare: look closer
			return strings.ContainsFunc(s, unicode.IsControl)
		}
	}
	return false
}

// Undeclared returns the JSON pointers of the members that the schema does not declare, in the order they came.
func (e *Event) Undeclared() []string {
	var pointers []string
	for i := range e.extras {
		pointers = append(pointers, e.extraPointer(&e.extras[i]))
	}
	return pointers
}

func (e *Event) extraPointer(x *extra) string {
	prefix := ""
	switch {
	case x.node == nodeData:
		prefix = "/data"
	case x.node >= nodeGroup:
		prefix = e.table.groups[x.node-nodeGroup].pointer
	}
	return prefix + "/" + escapePointer(x.name)
}
