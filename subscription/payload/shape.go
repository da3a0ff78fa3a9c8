package payload

import (
	"maps"
	"strconv"

	"github.com/callstream/callstream/schemas/event"
)

// shape is a profile with an envelope of its own around what the event says: how the profile calls the members of the
// envelope, the event types and the fields.
type shape struct {
	event, id, time, tenant, source, call, agent, sequence, test, attributes string

	// types are the profile's names of the event types; a type without one keeps its own.
	types map[string]string
	// layouts arrange the fields, by event topic.
	layouts map[string]*layout
	// data is the object that holds what a layout arranged; where it is empty that stands beside the envelope.
	data string
	// whole is the object that holds the data as it is, for topics without a layout.
	whole string

	keys shapeKeys
	own  names
}

// shapeKeys are the envelope's names as they are written: `,"name":`.
type shapeKeys struct {
	event, id, time, tenant, source, call, agent, sequence, test, attributes, data, whole string
}

// prepared completes a shape: it may be used then, by any number of goroutines. tables are the look-up tables for
// newLayout, by event topic.
func (s *shape) prepared(tables map[string]string) *shape {
	envelope := []string{s.event, s.id, s.time, s.tenant, s.source, s.call, s.agent, s.sequence, s.test, s.attributes}
	for _, name := range []string{s.data, s.whole} {
		if name != "" {
			envelope = append(envelope, name)
		}
	}
	s.own = namesOf(envelope...)
	s.layouts = make(map[string]*layout, len(tables))
	for topic, table := range tables {
		if s.data != "" {
			s.layouts[topic] = newLayout(topic, table)
		} else {
			s.layouts[topic] = newLayout(topic, table, envelope...)
			maps.Copy(s.own, s.layouts[topic].names)
		}
	}
	key := func(name string) string { return `,"` + name + `":` }
	s.keys = shapeKeys{
		`{"` + s.event + `":`, key(s.id), key(s.time), key(s.tenant), key(s.source), key(s.call), key(s.agent),
		key(s.sequence), key(s.test), key(s.attributes), key(s.data), key(s.whole),
	}
	return s
}

// append appends the body: the envelope, then the fields, attributes and the root's undeclared members. What the event
// lacks is omitted.
func (s *shape) append(dst []byte, e *event.Event) []byte {
	from := len(dst)
	dst = append(dst, s.keys.event...)
	if name, ok := s.types[e.Type]; ok {
		dst = event.AppendString(dst, name)
	} else {
		dst = event.AppendString(dst, e.Type)
	}
	dst = appendMember(dst, s.keys.id, e.ID)
	if !e.Time.IsZero() {
		dst = append(dst, s.keys.time...)
		dst = e.AppendTime(dst)
	}
	dst = appendMember(dst, s.keys.tenant, e.Tenant)
	dst = appendMember(dst, s.keys.source, e.Source)
	dst = appendMember(dst, s.keys.call, e.CallID)
	dst = appendMember(dst, s.keys.agent, e.AgentID)
	if e.HasSequence || e.Sequence != 0 {
		dst = append(dst, s.keys.sequence...)
		dst = strconv.AppendInt(dst, e.Sequence, 10)
	}
	if e.HasTest || e.Test {
		dst = append(dst, s.keys.test...)
		dst = strconv.AppendBool(dst, e.Test)
	}
	own := s.own
	switch l := s.layouts[e.Topic()]; {
	case l == nil:
		dst = append(dst, s.keys.whole...)
		dst = append(e.AppendData(dst), ',')
	case s.data != "":
		dst = append(dst, s.keys.data...)
		dst = append(dst, '{')
		inside := len(dst)
		if dst = l.append(dst, e); len(dst) > inside {
			dst = dst[:len(dst)-1] // the last comma
		}
		dst = append(dst, '}', ',')
	default:
		dst = append(dst, ',')
		dst = l.append(dst, e)
		own = s.ownBeside(e, dst[from:])
	}
	dst = dst[:len(dst)-1] // the last comma
	dst = appendAttributes(dst, s.keys.attributes, e.Attributes)
	dst = append(dst, ',')
	dst = appendUndeclared(dst, e, "", own)
	dst[len(dst)-1] = '}' // in place of the last comma
	return dst
}

// ownBeside is own, with the names of what stands in the body already where undeclared members of data are among it: they
// could meet those of the root.
func (s *shape) ownBeside(e *event.Event, body []byte) names {
	inRoot, inData := false, false
	e.EachUndeclared("", func(string, string) { inRoot = true })
	if inRoot {
		e.EachUndeclared("data", func(string, string) { inData = true })
	}
	if !inData {
		return s.own
	}
	own := maps.Clone(s.own)
	own.addMembers(body)
	return own
}

func appendMember(dst []byte, key, value string) []byte {
	if value == "" {
		return dst
	}
	return event.AppendString(append(dst, key...), value)
}

func appendAttributes(dst []byte, key string, attributes []event.Attribute) []byte {
	if len(attributes) == 0 {
		return dst
	}
	dst = append(append(dst, key...), '{')
	for i, a := range attributes {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = event.AppendString(dst, a.Name)
		dst = append(dst, ':')
		dst = event.AppendString(dst, a.Value)
	}
	return append(dst, '}')
}
