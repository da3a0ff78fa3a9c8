package declare

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/callstream/callstream/subscription"
)

// Source is a file that has been read.
type Source struct {
	// Name is what the file is called where its faults are reported.
	Name string
	// Dir is the folder that paths in it start from.
	Dir string
	Raw []byte
}

// Entry is a subscription as a file declares it.
type Entry struct {
	// Name identifies it. Was is the name that it had before, if it is renamed.
	Name, Was string
	// File and Line are where it stands.
	File string
	Line int
	// Secrets are the places of the secrets that it names.
	Secrets []Reference

	index  int
	source *value
	// document is what the API takes, with {"set": true} for secrets.
	document map[string]any
	wanted   *subscription.Subscription
}

// Fault is what is wrong with the entry's member at a pointer of the API's, "#/request/timeout".
func (e *Entry) Fault(pointer, detail string) Fault {
	path := splitPointer(pointer)
	line, place := e.source.find(path)
	at := fmt.Sprintf("subscriptions[%d]", e.index)
	switch {
	case strings.HasPrefix(place, "["):
		at += place
	case place != "":
		at += "." + place
	}
	return Fault{File: e.File, Line: line, Place: at, Detail: detail}
}

// splitPointer takes a JSON pointer apart, as a plain one or as a URI fragment.
func splitPointer(pointer string) []string {
	if fragment, ok := strings.CutPrefix(pointer, "#"); ok {
		pointer = fragment
		if plain, err := url.PathUnescape(fragment); err == nil {
			pointer = plain
		}
	}
	if pointer == "" {
		return nil
	}
	path := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i, name := range path {
		path[i] = strings.ReplaceAll(strings.ReplaceAll(name, "~1", "/"), "~0", "~")
	}
	return path
}

// joinPointer is the JSON pointer of a path.
func joinPointer(path []string) string {
	var b strings.Builder
	for _, name := range path {
		b.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
	}
	return b.String()
}

// Load reads the files' subscriptions, in the order they stand in. The error is Faults: everything that is wrong, with
// its place. Whether endpoints may use plain http is for the installation to say.
func Load(sources ...Source) ([]*Entry, error) {
	l := loader{}
	for _, s := range sources {
		l.file(s)
	}
	l.checkNames()
	if len(l.faults) > 0 {
		order := map[string]int{}
		for i, s := range sources {
			order[s.Name] = i
		}
		slices.SortStableFunc(l.faults, func(a, b Fault) int {
			return cmp.Or(order[a.File]-order[b.File], a.Line-b.Line)
		})
		return nil, l.faults
	}
	return l.entries, nil
}

type loader struct {
	entries []*Entry
	faults  Faults
}

func (l *loader) fault(s Source, line int, place, detail string) {
	l.faults = append(l.faults, Fault{s.Name, line, place, detail})
}

func (l *loader) file(s Source) {
	docs, err := parse(s.Raw)
	var syntax *syntaxError
	if errors.As(err, &syntax) {
		l.fault(s, syntax.line, "", syntax.detail)
		return
	}
	if len(docs) == 0 {
		l.fault(s, 0, "", "it is empty: want subscriptions, with a list (an empty one, [], for none)")
	}
	index := 0
	for _, doc := range docs {
		if doc.kind != isObject {
			l.fault(s, doc.line, "", "want a mapping with the member subscriptions")
			continue
		}
		for _, m := range doc.members {
			// x-… is for anchors that entries share, as in a compose file; $schema is for editors.
			if m.name != "subscriptions" && m.name != "$schema" && !strings.HasPrefix(m.name, "x-") {
				l.fault(s, m.line, m.name, "there is no such member; want subscriptions, or x-… for what entries share")
			}
		}
		list := doc.member("subscriptions")
		if list == nil || list.kind != isList {
			l.fault(s, doc.line, "subscriptions", "want a list (an empty one, [], for none)")
			continue
		}
		for _, item := range list.list {
			l.entry(s, index, item)
			index++
		}
	}
}

func (l *loader) entry(s Source, index int, v *value) {
	e := &Entry{File: s.Name, Line: v.line, index: index, source: v}
	if v.kind != isObject {
		l.faults = append(l.faults, e.Fault("", "want a subscription, a mapping"))
		return
	}
	tree, _ := v.tree().(map[string]any)
	name := v.member("name")
	if e.Name, _ = name.text(); name.null() || name.kind == isScalar && strings.TrimSpace(e.Name) == "" {
		l.faults = append(l.faults, e.Fault("/name", "it is required: the name tells which subscription is meant"))
	}
	if was := v.member("was"); !was.null() {
		e.Was, _ = was.text()
		if e.Was == "" || e.Was == e.Name {
			l.faults = append(l.faults, e.Fault("/was", "want the name that it had before"))
		}
	}
	delete(tree, "was")
	for _, path := range secretMembers() {
		l.secret(s, e, tree, path)
	}
	e.document = tree
	l.entries = append(l.entries, e)
	raw, err := json.Marshal(tree)
	if err == nil {
		e.wanted, err = subscription.Parse(raw, subscription.Rules{AllowHTTP: true, SecretsElsewhere: true})
	}
	var wrong subscription.Faults
	switch {
	case errors.As(err, &wrong):
		for _, f := range wrong {
			l.faults = append(l.faults, e.Fault(f.Pointer, f.Detail))
		}
	case err != nil:
		l.faults = append(l.faults, e.Fault("", err.Error()))
	}
}

// secret takes the reference at a path out of the document.
func (l *loader) secret(s Source, e *Entry, tree map[string]any, path []string) {
	at, v := tree, e.source
	for i, name := range path {
		if v = v.member(name); v.null() || i < len(path)-1 && v.kind != isObject {
			return
		}
		if i < len(path)-1 {
			at, _ = at[name].(map[string]any)
		}
	}
	r, detail := reference(v)
	r.Member, r.dir = joinPointer(path), s.Dir
	if detail != "" {
		l.faults = append(l.faults, e.Fault(r.Member, detail))
	}
	e.Secrets = append(e.Secrets, r)
	at[path[len(path)-1]] = map[string]any{"set": true}
}

// checkNames finds entries that could be meant by the same name.
func (l *loader) checkNames() {
	byName := map[string]*Entry{}
	claim := func(e *Entry, member, name string) {
		if name == "" {
			return
		}
		if other := byName[name]; other != nil && other != e {
			l.faults = append(l.faults, e.Fault(member, fmt.Sprintf("%q is %s:%d already: names must be unique", name, other.File, other.Line)))
			return
		}
		byName[name] = e
	}
	for _, e := range l.entries {
		claim(e, "/name", e.Name)
	}
	for _, e := range l.entries {
		claim(e, "/was", e.Was)
	}
}

// Create is the body of the request that creates the entry's subscription. secrets are by member, as Secrets has them.
func (e *Entry) Create(secrets map[string]string) map[string]any {
	body := maps.Clone(e.document)
	for member, secret := range secrets {
		setAt(body, splitPointer(member), secret)
	}
	return body
}

// setAt sets a member, copying the objects on the way: they may belong to someone else.
func setAt(object map[string]any, path []string, v any) {
	if len(path) == 1 {
		object[path[0]] = v
		return
	}
	inner, _ := object[path[0]].(map[string]any)
	if inner = maps.Clone(inner); inner == nil {
		inner = map[string]any{}
	}
	object[path[0]] = inner
	setAt(inner, path[1:], v)
}

// Folder returns the names of the files of a folder that declare subscriptions, of those given.
func Folder(names []string) []string {
	var out []string
	for _, name := range names {
		switch filepath.Ext(name) {
		case ".yaml", ".yml", ".json":
			if !strings.HasPrefix(name, ".") {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return out
}
