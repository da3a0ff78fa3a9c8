package event

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// Redacted stands in events for what a Rule or a Scrubber has hidden.
const Redacted = "[redacted]"

// Rule says what becomes of one place in an event: a member of data or of the root, or a place below it. The elements of
// an array are at the place of their array. A nil Rule leaves a place as it is.
type Rule struct {
	Drop    bool             // the member goes, with everything below
	Sift    bool             // only Members stay: values go, and so does an object or array that has nothing left
	Redact  bool             // every value below becomes Redacted, but for null; objects and arrays keep their shape
	Members map[string]*Rule // the places below that have a rule; the others do as this one does
}

// Scrubber hides what must not be told from the values that no Rule has decided on, wherever they stand.
type Scrubber interface {
	// Text returns what a string becomes and whether that is something else. The string is the value of the member name,
	// or an element of it, or the name of a member; then name is empty.
	Text(name, text string) (string, bool)
	// Number reports whether a number, given as its literal, becomes Redacted. The catalogue declares some of them.
	Number(name, literal string, declared bool) bool
}

// Edit changes events by rules. It is made once for many events, and is safe for concurrent use.
//
// It never touches what identifies an event: id, type, time, tenant, sequence and test. Source, call_id, agent_id and
// traceparent can be dropped, but not altered otherwise.
type Edit struct {
	topics []topicEdit // as tables; the last is for events without a table
}

// topicEdit is the rules of a topic, worked out for each declared field.
type topicEdit struct {
	root   *Rule
	nodes  []*Rule // of root, data and the groups
	fields []*Rule
}

// NewEdit makes an Edit of the rules that rules returns for the root of the events of each topic, "" for events of an
// unknown type.
func NewEdit(rules func(topic string) *Rule) *Edit {
	d := &Edit{topics: make([]topicEdit, len(tables)+1)}
	for i := range d.topics {
		at := &d.topics[i]
		if i == len(tables) {
			at.root = rules("")
			at.nodes = []*Rule{at.root, at.root.member("data")}
			continue
		}
		t := tables[i]
		at.root = rules(t.topic)
		at.nodes = append(at.nodes, at.root, at.root.member("data"))
		for g := range t.groups {
			at.nodes = append(at.nodes, at.nodes[nodeData].member(t.groups[g].name))
		}
		for f := range t.fields {
			at.fields = append(at.fields, at.nodes[t.fields[f].node].member(t.fields[f].name))
		}
	}
	return d
}

// What members without a rule of their own do.
var (
	dropped  = &Rule{Drop: true}
	redacted = &Rule{Redact: true}
)

// member is the rule of a member of the object that r is for. A name with dots is also looked for as a path, because a
// path doesn't tell them apart.
func (r *Rule) member(name string) *Rule {
	if r == nil {
		return nil
	}
	if r.Drop {
		return dropped
	}
	if own := r.Members[name]; own != nil {
		return own
	}
	if len(r.Members) > 0 && strings.IndexByte(name, '.') >= 0 {
		at := r
		for segment := range strings.SplitSeq(name, ".") {
			if at = at.Members[segment]; at == nil || at.Drop {
				break
			}
		}
		if at != nil {
			return at
		}
	}
	switch {
	case r.Sift:
		return dropped
	case r.Redact:
		return redacted
	}
	return nil
}

// Apply returns the event as the rules and scrub have it: e itself where they change nothing, else a copy. A nil scrub
// scrubs nothing. An event is always gone through in the same order.
func (d *Edit) Apply(e *Event, scrub Scrubber) *Event {
	w := editor{scrub: scrub, from: e, to: e}
	t := e.fieldTable()
	at := &d.topics[len(tables)]
	for i := range tables {
		if tables[i] == t {
			at = &d.topics[i]
		}
	}
	if at.root != nil {
		w.envelope(at.root)
	}
	if len(e.Attributes) > 0 {
		w.attributes(at.root.member("attributes"))
	}
	if t != nil {
		for f, r := range at.fields {
			if e.index[f] != 0 && (r != nil || scrub != nil) {
				w.field(t, f, r)
			}
		}
	}
	w.undeclared(at.nodes)
	return w.to
}

// editor applies an Edit to one event.
type editor struct {
	scrub    Scrubber
	from, to *Event // the same until something changes
}

// own makes the copy that changes are made to.
func (w *editor) own() *Event {
	if w.to == w.from {
		c := *w.from
		c.values, c.lists, c.cached = slices.Clone(c.values), slices.Clone(c.lists), nil
		c.Attributes, c.extras = slices.Clone(c.Attributes), slices.Clone(c.extras)
		w.to = &c
	}
	return w.to
}

func (w *editor) envelope(root *Rule) {
	drops := func(name string) bool { return root.Members[name] != nil && root.Members[name].Drop }
	if drops("source") && w.from.Source != "" {
		w.own().Source = ""
	}
	if drops("call_id") && w.from.CallID != "" {
		w.own().CallID = ""
	}
	if drops("agent_id") && w.from.AgentID != "" {
		w.own().AgentID = ""
	}
	if drops("traceparent") && w.from.Traceparent != "" {
		w.own().Traceparent = ""
	}
}

func (w *editor) attributes(r *Rule) {
	if r == nil && w.scrub == nil {
		return
	}
	kept := 0
	var names renamer
	for i, a := range w.from.Attributes {
		rule := r.member(a.Name)
		if rule != nil && (rule.Drop || rule.Sift) {
			w.own()
			continue
		}
		name, value := a.Name, a.Value
		if rule != nil && rule.Redact {
			value = Redacted
		} else if w.scrub != nil {
			value, _ = w.scrub.Text(name, value)
		}
		if w.scrub != nil {
			if text, changed := w.scrub.Text("", name); changed {
				name = names.free(text, func(taken map[string]bool) {
					for _, a := range w.from.Attributes {
						taken[a.Name] = true
					}
				})
			}
		}
		if name != a.Name || value != a.Value {
			w.own()
		}
		if w.to != w.from && (kept != i || name != a.Name || value != a.Value) {
			w.to.Attributes[kept] = Attribute{name, value}
		}
		kept++
	}
	if w.to != w.from {
		w.to.Attributes = w.to.Attributes[:kept]
	}
}

// field edits a declared field that is present.
func (w *editor) field(t *table, f int, r *Rule) {
	at := w.from.index[f] - 1
	v, kind := &w.from.values[at], t.fields[f].Kind
	switch {
	case r != nil && (r.Drop || r.Sift && kind != KindObject):
		w.own().index[f] = 0
	case kind == KindObject:
		if raw, kept, changed := editRaw(v.s, t.fields[f].name, r, w.scrub); !kept || isEmpty(raw) {
			w.own().index[f] = 0
		} else if changed {
			w.own().values[at].s = raw
		}
	case kind == KindStrings:
		w.strings(at, t.fields[f].name, r)
	case r != nil && r.Redact:
		if kind == KindString || kind == KindTime {
			w.own().values[at].s = Redacted
		} else {
			w.redact(t, f)
		}
	case w.scrub == nil || kind == KindBool:
	case kind == KindString || kind == KindTime:
		if text, changed := w.scrub.Text(t.fields[f].name, v.s); changed {
			w.own().values[at].s = text
		}
	default:
		literal := v.s // of a double that isn't exact
		switch {
		case kind == KindLong:
			literal = strconv.FormatInt(int64(v.n), 10)
		case literal == "":
			var buf [32]byte
			literal = string(appendDoubleJSON(buf[:0], math.Float64frombits(v.n)))
		}
		if w.scrub.Number(t.fields[f].name, literal, true) {
			w.redact(t, f)
		}
	}
}

// redact hides a number or boolean. Its column can't hold the text, so it goes on as a member that isn't declared, as one
// does that came with another type than its column's.
func (w *editor) redact(t *table, f int) {
	e := w.own()
	e.index[f] = 0
	e.extras = append(e.extras, extra{t.fields[f].node, t.fields[f].name, `"` + Redacted + `"`})
}

func (w *editor) strings(at uint8, name string, r *Rule) {
	list := w.from.lists[w.from.values[at].n]
	var edited []string
	for i, s := range list {
		text, changed := Redacted, r != nil && r.Redact
		if !changed && w.scrub != nil {
			text, changed = w.scrub.Text(name, s)
		}
		if changed {
			if edited == nil {
				edited = slices.Clone(list)
			}
			edited[i] = text
		}
	}
	if edited != nil {
		e := w.own()
		e.lists[e.values[at].n] = edited
	}
}

// undeclared edits the members that the schema doesn't declare. It comes last: redact may have added to them.
func (w *editor) undeclared(nodes []*Rule) {
	extras := w.from.extras
	if len(extras) == 0 {
		return
	}
	added := w.to.extras[len(extras):]
	var names []renamer
	kept := 0
	for i := range extras {
		x := extras[i]
		parent := nodes[x.node]
		r := parent.member(x.name)
		if r != nil && r.Drop {
			w.own()
			continue
		}
		raw, stays, changed := x.raw, true, false
		if r != nil || w.scrub != nil {
			raw, stays, changed = editRaw(x.raw, x.name, r, w.scrub)
		}
		if !stays {
			w.own()
			continue
		}
		x.raw = raw
		if w.scrub != nil {
			if text, renamed := w.scrub.Text("", x.name); renamed {
				if names == nil {
					names = make([]renamer, len(nodes))
				}
				x.name = names[x.node].free(text, func(taken map[string]bool) {
					for j := range extras {
						if extras[j].node == x.node {
							taken[extras[j].name] = true
						}
					}
				})
				changed = true
			}
		}
		if changed {
			w.own()
		}
		if w.to != w.from {
			w.to.extras[kept] = x
		}
		kept++
	}
	if w.to != w.from && kept < len(extras) {
		w.to.extras = append(w.to.extras[:kept], added...)
	}
}

// renamer gives names to the members of one object that were scrubbed, so that no two are the same.
type renamer struct {
	taken map[string]bool
	n     int
}

// free returns name, or name and a number where another member has it. names adds the names that the object came with.
func (r *renamer) free(name string, names func(taken map[string]bool)) string {
	if r.taken == nil {
		r.taken = map[string]bool{}
		names(r.taken)
	}
	free := name
	for r.taken[free] {
		r.n++
		free = name + " " + strconv.Itoa(r.n+1)
	}
	r.taken[free] = true
	return free
}

// SetText sets a string member of data, declared or not, that the event doesn't have or has as a declared string. It does
// nothing where data declares another type by that name.
func (e *Event) SetText(name, text string) {
	e.cached = nil
	t := e.fieldTable()
	if t == nil {
		return
	}
	f := t.find(nodeData, name)
	switch {
	case f >= groupBase || f >= 0 && t.fields[f].Kind != KindString:
	case f >= 0 && e.index[f] != 0:
		e.values[e.index[f]-1].s = text
	case f >= 0:
		e.set(f, value{s: text})
	default:
		e.extras = append(e.extras, extra{nodeData, name, string(appendQuoted(nil, text))})
	}
}
