package event

// editRaw applies a rule and a scrubber to JSON that was checked before: the value of the member name. Everything that
// they leave alone keeps its bytes and its order. kept is false where nothing of the value stays.
func editRaw(raw, name string, r *Rule, scrub Scrubber) (edited string, kept, changed bool) {
	w := rawEditor{p: parser{b: []byte(raw), s: raw}, scrub: scrub}
	w.p.space()
	if !w.value(name, r) {
		return "", false, true
	}
	if w.from == 0 && w.out == nil {
		return raw, true, false
	}
	return string(append(w.out, raw[w.from:]...)), true, true
}

// rawEditor is one pass over one JSON text. out is the text up to from, edited; it grows only where something changes.
type rawEditor struct {
	p     parser
	out   []byte
	from  int
	scrub Scrubber
}

// state is what a rawEditor goes back to when it leaves out what it has passed.
type state struct{ out, from int }

func (w *rawEditor) state() state { return state{len(w.out), w.from} }

// cut leaves out the bytes from lo to hi.
func (w *rawEditor) cut(lo, hi int) {
	if w.from < lo {
		w.out = append(w.out, w.p.s[w.from:lo]...)
	}
	w.from = hi
}

// quote puts a string in the place of the bytes from lo to hi.
func (w *rawEditor) quote(lo, hi int, text string) {
	w.cut(lo, hi)
	w.out = appendQuoted(w.out, text)
}

// value edits the value at p.i, that of the member name or an element of it, and reports whether it stays.
func (w *rawEditor) value(name string, r *Rule) bool {
	p := &w.p
	start := p.i
	switch c := p.s[p.i]; c {
	case '{':
		return w.object(r)
	case '[':
		return w.array(name, r)
	case '"':
		text, escaped := p.string()
		switch {
		case r != nil && r.Sift:
			return false
		case r != nil && r.Redact:
			w.quote(start, p.i, Redacted)
		case w.scrub != nil:
			if escaped {
				text, _ = unescape(text)
			}
			if text, changed := w.scrub.Text(name, text); changed {
				w.quote(start, p.i, text)
			}
		}
	case 't', 'f', 'n':
		p.skipRaw()
		if r != nil && r.Redact && c != 'n' {
			w.quote(start, p.i, Redacted)
		}
	default:
		literal := p.number()
		if r != nil && r.Redact || w.scrub != nil && (r == nil || !r.Sift) && w.scrub.Number(name, literal, false) {
			w.quote(start, p.i, Redacted)
		}
	}
	return r == nil || !r.Sift
}

func (w *rawEditor) object(r *Rule) bool {
	p := &w.p
	open := p.i
	p.i++
	if p.space(); p.s[p.i] == '}' {
		p.i++
		return r == nil || !r.Sift
	}
	var names renamer
	members := items{}
	for more := true; more; {
		start, before := p.i, w.state()
		name, nameEnd := w.name()
		rule := r.member(name)
		stays := rule == nil || !rule.Drop
		if stays {
			if text, changed := w.scrubbedName(name); changed {
				w.quote(start, nameEnd, names.free(text, func(taken map[string]bool) { w.names(open, taken) }))
			}
			stays = w.value(name, rule)
		} else {
			p.skipRaw()
		}
		more = w.passed(&members, stays, start, before)
	}
	return members.kept > 0 || r == nil || !r.Sift
}

func (w *rawEditor) array(name string, r *Rule) bool {
	p := &w.p
	p.i++
	if p.space(); p.s[p.i] == ']' {
		p.i++
		return r == nil || !r.Sift
	}
	elements := items{}
	for more := true; more; {
		start, before := p.i, w.state()
		more = w.passed(&elements, w.value(name, r), start, before)
	}
	return elements.kept > 0 || r == nil || !r.Sift
}

// items are the members or elements that have been passed.
type items struct {
	kept int // how many stay
	end  int // where the last of them ended
}

// passed goes on behind an item that began at start, leaves it out with one of its commas if it doesn't stay, and reports
// whether another follows.
func (w *rawEditor) passed(s *items, stays bool, start int, before state) (more bool) {
	p := &w.p
	end := p.i
	p.space()
	more = p.s[p.i] == ','
	if p.i++; more {
		p.space()
	}
	if stays {
		s.kept, s.end = s.kept+1, end
		return more
	}
	w.out, w.from = w.out[:before.out], before.from // what has been written of it
	switch {
	case s.kept > 0:
		w.cut(s.end, end)
	case more:
		w.cut(start, p.i)
	default:
		w.cut(start, end)
	}
	return more
}

// name reads a member's name and goes on to its value. end is where the name's quotes close.
func (w *rawEditor) name() (name string, end int) {
	p := &w.p
	name, escaped := p.string()
	if escaped {
		name, _ = unescape(name)
	}
	end = p.i
	p.space()
	p.i++ // :
	p.space()
	return name, end
}

func (w *rawEditor) scrubbedName(name string) (string, bool) {
	if w.scrub == nil {
		return name, false
	}
	return w.scrub.Text("", name)
}

// names adds the names of the members of the object at open.
func (w *rawEditor) names(open int, taken map[string]bool) {
	p := parser{b: w.p.b, s: w.p.s, i: open}
	p.members(func(name string) {
		taken[name] = true
		p.skipRaw()
	})
}
