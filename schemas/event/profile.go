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

// AppendUndeclared appends the members of the event's root that the schema does not declare, each with a comma before
// it, but for those with the name that the renderer uses itself.
func (e *Event) AppendUndeclared(dst []byte, but string) []byte {
	for i := range e.extras {
		if x := &e.extras[i]; x.node == nodeRoot && x.name != but {
			dst = append(dst, ',')
			dst = appendQuoted(dst, x.name)
			dst = append(dst, ':')
			dst = append(dst, x.raw...)
		}
	}
	return dst
}
