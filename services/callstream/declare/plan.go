package declare

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/callstream/callstream/subscription"
)

// Action is what a plan does with a subscription.
type Action string

// The actions. A subscription that is as declared is kept; it may still have to be verified.
const (
	Create Action = "create"
	Update Action = "update"
	Keep   Action = "keep"
	Delete Action = "delete"
)

// Options are what a plan may do beside what the files say.
type Options struct {
	// Prune deletes subscriptions that no file declares.
	Prune bool
	// RotateCredentials sends the secrets of auth of every subscription. They can't be read back, so that a changed one
	// is no difference that a plan could see.
	RotateCredentials bool
	// Verify verifies what is not verified yet.
	Verify bool
}

// Step is what a plan does with one subscription.
type Step struct {
	Action Action `json:"action"`
	Name   string `json:"name,omitempty"`
	// ID, State and Version are those of the subscription that there is: a change is only made to this version.
	ID      string `json:"id,omitempty"`
	State   string `json:"state,omitempty"`
	Version int64  `json:"version,omitempty"`
	// Changes are the members that differ; all that are declared, of one to be created.
	Changes []Change `json:"changes,omitempty"`
	// Secrets are those that are sent.
	Secrets []Reference `json:"secrets,omitempty"`
	// Verify says that the endpoint is asked.
	Verify bool   `json:"verify,omitempty"`
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`

	// Entry is what is declared, nil for one that is deleted.
	Entry *Entry `json:"-"`
	// Agent is whose post-call webhook a deleted one may stand for, as the per-agent settings make them; else empty.
	Agent string `json:"-"`
	patch map[string]any
}

// Change is a member that differs. An absent value is nil.
type Change struct {
	// Member is a JSON pointer, "/request/timeout".
	Member string `json:"member"`
	Before any    `json:"before,omitempty"`
	After  any    `json:"after,omitempty"`
}

// Pending says whether there is something to do.
func (s *Step) Pending() bool { return s.Action != Keep || s.Verify }

// Plan is how to get from the subscriptions that there are to those declared.
type Plan struct {
	Steps []*Step `json:"subscriptions"`
	// Others counts the subscriptions that no file declares, and that stay.
	Others int `json:"others"`
}

// Pending says whether there is something to do.
func (p *Plan) Pending() bool { return slices.ContainsFunc(p.Steps, (*Step).Pending) }

// Spare leaves a subscription alone that was to be deleted.
func (p *Plan) Spare(id string) {
	p.Steps = slices.DeleteFunc(p.Steps, func(s *Step) bool { return s.Action == Delete && s.ID == id })
}

// Count returns how many steps have an action.
func (p *Plan) Count(a Action) int {
	n := 0
	for _, s := range p.Steps {
		if s.Action == a {
			n++
		}
	}
	return n
}

// New compares what is declared with the subscriptions that there are, each as the API shows it. The error is Faults
// where a name fits more than one of them.
func New(entries []*Entry, current []json.RawMessage, o Options) (*Plan, error) {
	byName := map[string][]*existing{}
	var all []*existing
	for _, raw := range current {
		x, err := read(raw)
		if err != nil {
			return nil, err
		}
		all = append(all, x)
		byName[x.Name] = append(byName[x.Name], x)
	}
	plan := &Plan{Steps: []*Step{}}
	var faults Faults
	for _, e := range entries {
		found, member := byName[e.Name], "/name"
		if len(found) == 0 && e.Was != "" {
			found, member = byName[e.Was], "/was"
		}
		switch len(found) {
		case 0:
			plan.Steps = append(plan.Steps, e.create(o))
		case 1:
			found[0].declared = true
			step, err := e.compare(found[0], o)
			if err != nil {
				return nil, err
			}
			plan.Steps = append(plan.Steps, step)
		default:
			ids := make([]string, len(found))
			for i, x := range found {
				x.declared = true
				ids[i] = x.ID
			}
			faults = append(faults, e.Fault(member, "it is the name of several subscriptions, "+strings.Join(ids, ", ")+
				": delete all but one, or name them differently (`callstream subscriptions update ID --name …`)"))
		}
	}
	if len(faults) > 0 {
		return nil, faults
	}
	for _, x := range all {
		switch {
		case x.declared:
		case o.Prune:
			plan.Steps = append(plan.Steps, &Step{Action: Delete, Name: x.Name, ID: x.ID, State: string(x.State), Version: x.Version, Agent: x.agent()})
		default:
			plan.Others++
		}
	}
	return plan, nil
}

// existing is a subscription that there is.
type existing struct {
	*subscription.Subscription
	declared bool
}

func read(raw json.RawMessage) (*existing, error) {
	x := &existing{Subscription: &subscription.Subscription{}}
	if err := json.Unmarshal(raw, x.Subscription); err != nil {
		return nil, fmt.Errorf("read a subscription: %w", err)
	}
	return x, nil
}

// agent is the one whose post-call webhook the subscription looks like.
func (x *existing) agent() string {
	if x.Payload.Profile == subscription.ProfilePostCall && len(x.Agents) == 1 && slices.Equal(x.Events, []string{"call.report"}) {
		return x.Agents[0]
	}
	return ""
}

func (e *Entry) create(o Options) *Step {
	step := &Step{Action: Create, Name: e.Name, Secrets: e.Secrets, Verify: o.Verify, File: e.File, Line: e.Line, Entry: e}
	for _, m := range e.source.members {
		if v, ok := e.document[m.name]; ok && m.name != "name" {
			step.Changes = e.leaves(step.Changes, []string{m.name}, v)
		}
	}
	return step
}

// leaves adds what is declared at a path, member by member. A secret is one, whatever it stands for.
func (e *Entry) leaves(to []Change, path []string, v any) []Change {
	at := joinPointer(path)
	object, ok := v.(map[string]any)
	switch {
	case v == nil:
		return to
	case !ok || len(object) == 0 || slices.ContainsFunc(e.Secrets, func(r Reference) bool { return r.Member == at }):
		return append(to, Change{Member: at, After: v})
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		to = e.leaves(to, append(slices.Clone(path), name), object[name])
	}
	return to
}

func (e *Entry) compare(x *existing, o Options) (*Step, error) {
	step := &Step{Action: Keep, Name: e.Name, ID: x.ID, State: string(x.State), Version: x.Version, File: e.File, Line: e.Line, Entry: e}
	before, err := declarable(x.Subscription, x.State)
	if err != nil {
		return nil, err
	}
	after, err := declarable(e.wanted, x.State)
	if err != nil {
		return nil, err
	}
	step.Changes, step.patch = difference(nil, before, after)
	changed := func(prefix string) bool {
		return slices.ContainsFunc(step.Changes, func(c Change) bool { return strings.HasPrefix(c.Member, prefix) })
	}
	for _, r := range e.Secrets {
		// Every change carries the credentials, so that they are renewed at some time, and since an endpoint on another
		// origin doesn't get those of the one before. A signing key is only taken with its scheme.
		send := changed("") || o.RotateCredentials
		if r.Member == signingSecret {
			send = changed("/signing/")
		}
		if send {
			step.Secrets = append(step.Secrets, r)
		}
	}
	if len(step.Changes) > 0 || len(step.Secrets) > 0 {
		step.Action = Update
	}
	step.Verify = o.Verify && Unverified(x.Subscription)
	return step, nil
}

// signingSecret is the member for a signing key that the endpoint knows already.
const signingSecret = "/signing/secret"

// Unverified says whether something of a subscription waits for its endpoint's verification.
func Unverified(s *subscription.Subscription) bool {
	return s.State != subscription.StateDisabled && len(s.Unverified()) > 0
}

// Patch is the merge patch that makes the step's changes. secrets are by member, as Secrets has them.
func (s *Step) Patch(secrets map[string]string) map[string]any {
	patch := map[string]any{}
	for name, v := range s.patch {
		patch[name] = v
	}
	for member, secret := range secrets {
		setAt(patch, splitPointer(member), secret)
	}
	return patch
}

// declarable is a subscription as far as a file can declare it: a tree without what callstream sets. What waits for
// verification counts as set, it has been asked for.
func declarable(s *subscription.Subscription, state subscription.State) (map[string]any, error) {
	raw, err := json.Marshal(s.Proposed())
	if err != nil {
		return nil, fmt.Errorf("write a subscription as JSON: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var tree map[string]any
	if err := dec.Decode(&tree); err != nil {
		return nil, fmt.Errorf("read a subscription: %w", err)
	}
	for _, name := range subscription.ReadOnly() {
		delete(tree, name)
	}
	if state != subscription.StatePending {
		delete(tree, "activate") // it has had its effect
	}
	// Keys are made and rotated by callstream, so only the scheme is the file's to say.
	if signing, ok := tree["signing"].(map[string]any); ok {
		tree["signing"] = map[string]any{"scheme": signing["scheme"]}
	}
	return tree, nil
}

// difference lists the members that differ, and makes the merge patch that turns before into after. A member that is null
// is absent: a merge patch can't set one.
func difference(at []string, before, after map[string]any) ([]Change, map[string]any) {
	var changes []Change
	patch := map[string]any{}
	names := make([]string, 0, len(before)+len(after))
	for name := range before {
		names = append(names, name)
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		old, now := before[name], after[name]
		if reflect.DeepEqual(old, now) {
			continue
		}
		path := append(slices.Clone(at), name)
		oldObject, wasObject := old.(map[string]any)
		nowObject, isObject := now.(map[string]any)
		if wasObject && isObject {
			inner, innerPatch := difference(path, oldObject, nowObject)
			changes = append(changes, inner...)
			patch[name] = innerPatch
			continue
		}
		changes = append(changes, Change{Member: joinPointer(path), Before: old, After: now})
		patch[name] = now // nil removes it
	}
	return changes, patch
}
