package event

// What renderers of payload profiles need besides AppendData and Lookup, so that they write JSON without reflection.

// AppendString appends s as a JSON string. Characters of HTML are not escaped.
func AppendString(dst []byte, s string) []byte { return appendQuoted(dst, s) }

// AppendTime appends the event's time as a JSON string, in the spelling of AppendJSON; null where it has none.
func (e *Event) AppendTime(dst []byte) []byte {
	if text, ok := e.exactTime(); ok {
		return appendQuoted(dst, text)
	}
	if e.Time.IsZero() {
		return append(dst, "null"...)
	}
	return append(appendTime(append(dst, '"'), e.Time.UnixMicro()), '"')
}

// AppendField appends key, the value of field number i of Fields(e.Topic()), and a comma; nothing where the event lacks
// the field. The key is appended as it is: quoted, with its colon.
func (e *Event) AppendField(dst []byte, key string, i int) []byte {
	at := e.index[i]
	if at == 0 {
		return dst
	}
	dst = append(dst, key...)
	dst = e.appendValue(dst, e.fieldTable().fields[i].Kind, e.values[at-1])
	return append(dst, ',')
}

// EachUndeclared calls each with the members that the schema does not declare, and their raw JSON, in the order they came.
// Parent is "" for those of the event's root, "data", or the name of a declared group of data, such as "caller".
func (e *Event) EachUndeclared(parent string, each func(name, raw string)) {
	if len(e.extras) == 0 {
		return
	}
	node := nodeRoot
	if parent != "" {
		t := e.fieldTable()
		if t == nil {
			return
		}
		node = nodeData
		for g := range t.groups {
			if t.groups[g].name == parent {
				node = nodeGroup + g
			}
		}
		if node == nodeData && parent != "data" {
			return
		}
	}
	for i := range e.extras {
		if x := &e.extras[i]; x.node == node {
			each(x.name, x.raw)
		}
	}
}
