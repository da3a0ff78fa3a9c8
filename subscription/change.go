package subscription

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/callstream/callstream/pkg/problem"
)

// ReadOnly are the members that callstream sets.
func ReadOnly() []string {
	return []string{"id", "tenant", "state", "state_reason", "pending_url", "version", "created_at", "updated_at", "secret"}
}

// Parse reads the document of a new subscription and fills in the defaults. The error is a *SyntaxError, or Faults that
// name everything that is wrong. ID, Tenant and the rest of what callstream sets are the caller's to fill in.
func Parse(raw []byte, rules Rules) (*Subscription, error) {
	object, err := ParseObject(raw)
	if err != nil {
		return nil, err
	}
	dec := &decoder{}
	for _, name := range ReadOnly() {
		if v, given := object[name]; given {
			if v != nil {
				dec.fault(pointer("").member(name), "it is read-only")
			}
			delete(object, name)
		}
	}
	s := decodeObject(dec, object, rules)
	for field, h := range s.hidden() {
		if h.set && h.plain == "" && !rules.SecretsElsewhere {
			at := pointer("/" + strings.ReplaceAll(field, ".", "/"))
			dec.fault(at, "no secret is stored yet that could be kept")
		}
	}
	if len(dec.faults) > 0 {
		return nil, dec.faults
	}
	s.State = StatePending
	return s, nil
}

// Patch applies a JSON merge patch (RFC 7386) to a copy of s. The error is a *SyntaxError, or Faults that name
// everything that is wrong. Members that callstream sets may be sent with the value they have, so that an object that
// was read can be sent back. A URL with another origin becomes PendingURL when the present one has been verified.
func (s *Subscription) Patch(raw []byte, rules Rules) (*Subscription, error) {
	patch, err := ParseObject(raw)
	if err != nil {
		return nil, err
	}
	base, err := s.document()
	if err != nil {
		return nil, err
	}
	dec := &decoder{}
	for _, name := range ReadOnly() {
		if v, given := patch[name]; given {
			if !reflect.DeepEqual(v, base[name]) {
				dec.fault(pointer("").member(name), "it is read-only")
			}
			delete(patch, name)
		}
		delete(base, name)
	}
	s.checkSigningPatch(dec, patch)
	dropOtherAuth(base, patch)
	merged, _ := mergePatch(base, patch).(map[string]any)
	next := decodeObject(dec, merged, rules)
	for field, h := range next.hidden() {
		if _, stored := s.Sealed[field]; h.set && h.plain == "" && !stored {
			dec.fault(pointer("/"+strings.ReplaceAll(field, ".", "/")), "no secret is stored yet that could be kept")
		}
	}
	if _, given := patch["activate"]; given && s.State != StatePending && next.Activate != nil {
		dec.fault("/activate", "it has had its effect: use /activate and /pause")
	}
	if len(dec.faults) > 0 {
		return nil, dec.faults
	}
	next.ID, next.Tenant, next.State, next.StateReason, next.Version = s.ID, s.Tenant, s.State, s.StateReason, s.Version
	next.CreatedAt, next.UpdatedAt, next.Sealed = s.CreatedAt, s.UpdatedAt, s.Clone().Sealed
	_, urlGiven := patch["url"]
	next.takeURL(s, urlGiven)
	return next, nil
}

// takeURL keeps the verified endpoint in service until one of another origin has passed.
func (s *Subscription) takeURL(before *Subscription, given bool) {
	switch {
	case before.State == StatePending:
		// Nothing is verified yet, so there is nothing to keep.
	case !given:
		s.PendingURL = before.PendingURL
	case Origin(s.URL) != Origin(before.URL):
		s.PendingURL, s.URL = s.URL, before.URL
	}
}

// checkSigningPatch refuses a new signing secret: without an overlap of both, deliveries would fail their verification.
func (s *Subscription) checkSigningPatch(dec *decoder, patch map[string]any) {
	if signing, ok := patch["signing"].(map[string]any); ok {
		if v, given := signing["secret"]; given {
			if _, keeps := v.(map[string]any); !keeps {
				dec.fault("/signing/secret", "it can't be changed by a patch")
				delete(signing, "secret")
			}
		}
		return
	}
	if v, given := patch["signing"]; given && v == nil {
		// Back to the defaults, with the secret that exists.
		patch["signing"] = map[string]any{"scheme": nil}
	}
}

// dropOtherAuth makes a patch that changes auth.type start from nothing: the members of the type before are not the
// caller's to remove one by one.
func dropOtherAuth(base, patch map[string]any) {
	auth, ok := patch["auth"].(map[string]any)
	if !ok {
		return
	}
	before, _ := base["auth"].(map[string]any)
	if typ, given := auth["type"]; given && typ != before["type"] {
		base["auth"] = map[string]any{}
	}
}

// document is s as a tree of JSON values.
func (s *Subscription) document() (map[string]any, error) {
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("write the subscription as JSON: %w", err)
	}
	return ParseObject(raw)
}

// mergePatch is MergePatch of RFC 7386, section 2.
func mergePatch(target, patch any) any {
	changes, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	out := map[string]any{}
	if object, ok := target.(map[string]any); ok {
		for name, v := range object {
			out[name] = v
		}
	}
	for name, v := range changes {
		if v == nil {
			delete(out, name)
		} else {
			out[name] = mergePatch(out[name], v)
		}
	}
	return out
}

// decodeObject reads the document and applies all rules. Validation says nothing about members that could not be read
// or are not supported: that has been said.
func decodeObject(dec *decoder, object map[string]any, rules Rules) *Subscription {
	s := &Subscription{}
	dec.value("", object, reflect.ValueOf(s).Elem())
	refuseUnsupported(dec, object)
	s.setDefaults()
	check := &decoder{}
	s.validate(check, rules)
	for _, f := range check.faults {
		if !covered(dec.faults, f) {
			dec.faults = append(dec.faults, f)
		}
	}
	return s
}

func covered(faults Faults, f problem.Fault) bool {
	for _, have := range faults {
		if f.Pointer == have.Pointer || strings.HasPrefix(f.Pointer, have.Pointer+"/") || strings.HasPrefix(have.Pointer, f.Pointer+"/") {
			return true
		}
	}
	return false
}
