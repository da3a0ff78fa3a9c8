package subscription

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/callstream/callstream/pkg/problem"
)

// ReadOnly are the members that callstream sets.
func ReadOnly() []string {
	return []string{"id", "tenant", "state", "state_reason", "pending_url", "pending_routes", "pending_fallback_url", "version", "created_at", "updated_at", "secret"}
}

// ReadOnlySigning are the members of signing that callstream sets.
func ReadOnlySigning() []string {
	return []string{"public_key", "previous_public_key", "previous_expires_at"}
}

// refuseReadOnly takes the members that callstream sets out of a document and, where there is one, of the object that it is
// to change. They may be given with the value they have, so that an object that was read can be sent back.
func refuseReadOnly(dec *decoder, at pointer, document, base any, names []string) {
	given, _ := document.(map[string]any)
	have, _ := base.(map[string]any)
	for _, name := range names {
		if v, ok := given[name]; ok && !reflect.DeepEqual(v, have[name]) {
			dec.fault(at.member(name), "it is read-only")
		}
		delete(given, name)
		delete(have, name)
	}
}

// Parse reads the document of a new subscription and fills in the defaults. The error is a *SyntaxError, or Faults that
// name everything that is wrong. ID, Tenant and the rest of what callstream sets are the caller's to fill in; then
// MakeSigningKey and Seal have to follow.
func Parse(raw []byte, rules Rules) (*Subscription, error) {
	object, err := ParseObject(raw)
	if err != nil {
		return nil, err
	}
	dec := &decoder{}
	refuseReadOnly(dec, "", object, nil, ReadOnly())
	refuseReadOnly(dec, "/signing", object["signing"], nil, ReadOnlySigning())
	s := decodeObject(dec, object, rules)
	if !rules.SecretsElsewhere {
		s.refuseUnknownSecrets(dec)
	}
	if len(dec.faults) > 0 {
		return nil, dec.sorted()
	}
	s.State = StatePending
	return s, nil
}

// Patch applies a JSON merge patch (RFC 7386) to a copy of s. The error is a *SyntaxError, or Faults that name
// everything that is wrong. Members that callstream sets may be sent with the value they have, so that an object that
// was read can be sent back. A URL whose origin has not passed verification waits for that, unless nothing has been verified
// yet. MakeSigningKey and Seal have to follow.
func (s *Subscription) Patch(raw []byte, rules Rules) (*Subscription, error) {
	patch, err := ParseObject(raw)
	if err != nil {
		return nil, err
	}
	base, err := s.document()
	if err != nil {
		return nil, err
	}
	_, waiting := patch["pending_url"]
	_, waitingRoutes := patch["pending_routes"]
	_, waitingFallback := patch["pending_fallback_url"]
	dec := &decoder{}
	refuseReadOnly(dec, "", patch, base, ReadOnly())
	refuseReadOnly(dec, "/signing", patch["signing"], base["signing"], ReadOnlySigning())
	patchSigning(dec, base, patch)
	dropOtherAuth(base, patch)
	merged, _ := mergePatch(base, patch).(map[string]any)
	next := decodeObject(dec, merged, rules)
	next.Sealed = s.Clone().Sealed
	next.refuseUnknownSecrets(dec)
	next.refuseCarriedSecrets(dec, s)
	if _, given := patch["activate"]; given && s.State != StatePending && next.Activate != nil {
		dec.fault("/activate", "it has had its effect: use /activate and /pause")
	}
	if len(dec.faults) > 0 {
		return nil, dec.sorted()
	}
	next.ID, next.Tenant, next.State, next.StateReason, next.Version = s.ID, s.Tenant, s.State, s.StateReason, s.Version
	next.CreatedAt, next.UpdatedAt = s.CreatedAt, s.UpdatedAt
	if next.Signing.Scheme == s.Signing.Scheme {
		secret := next.Signing.Secret
		next.Signing = s.Signing
		next.Signing.Secret = secret
	}
	if s.State != StatePending {
		// Whoever sends back what was waiting, beside what serves, has not taken it back.
		next.keepServing(s,
			changed(patch, base, "url", waiting), changed(patch, base, "fallback_url", waitingFallback),
			changedRoutes(patch, base, waitingRoutes))
	}
	return next, nil
}

// changed says whether a patch is to change a member: it is given and, where the patch also holds what waits to take its
// place, with another value than it has.
func changed(patch, base map[string]any, name string, waits bool) bool {
	v, given := patch[name]
	return given && (!waits || !reflect.DeepEqual(v, base[name]))
}

// changedRoutes returns a function that says the same of the route of a pattern.
func changedRoutes(patch, base map[string]any, waits bool) func(pattern string) bool {
	request, given := patch["request"]
	changes, _ := request.(map[string]any)
	routes, ok := changes["routes"]
	if given = given && (changes == nil || ok); !given {
		return func(string) bool { return false }
	}
	of, _ := routes.(map[string]any)
	if of == nil {
		return func(string) bool { return true } // all of them go
	}
	before, _ := base["request"].(map[string]any)
	have, _ := before["routes"].(map[string]any)
	return func(pattern string) bool { return changed(of, have, pattern, waits) }
}

// keepServing keeps what has been verified in service until what takes its place has passed too.
func (s *Subscription) keepServing(before *Subscription, url, fallback bool, route func(pattern string) bool) {
	verified := origins(endpoints(before.URL, before.Request.Routes, before.FallbackURL))
	if !url {
		s.PendingURL = before.PendingURL
	} else if !verified[Origin(s.URL)] {
		s.PendingURL, s.URL = s.URL, before.URL
	}
	if !fallback {
		s.PendingFallbackURL = before.PendingFallbackURL
	} else if s.FallbackURL != "" && !verified[Origin(s.FallbackURL)] {
		s.PendingFallbackURL, s.FallbackURL = s.FallbackURL, before.FallbackURL
	}
	pending := map[string]string{}
	for pattern, to := range before.PendingRoutes {
		if !route(pattern) {
			pending[pattern] = to
		}
	}
	for pattern, to := range s.Request.Routes {
		if isPath(to) || verified[Origin(to)] {
			continue
		}
		pending[pattern] = to
		if old, ok := before.Request.Routes[pattern]; ok {
			s.Request.Routes[pattern] = old
		} else {
			delete(s.Request.Routes, pattern)
		}
	}
	if len(pending) > 0 {
		s.PendingRoutes = pending
	}
}

// refuseUnknownSecrets notes a fault for each secret that is to be kept and isn't stored.
func (s *Subscription) refuseUnknownSecrets(dec *decoder) {
	for field, h := range s.hidden() {
		if _, stored := s.Sealed[field]; h.set && h.plain == "" && !stored {
			dec.fault(secretPlace(field), "no secret is stored yet that could be kept")
		}
	}
}

func secretPlace(field string) pointer { return pointer("/" + strings.ReplaceAll(field, ".", "/")) }

// refuseCarriedSecrets notes a fault for each secret that would go to an origin that it was not given for. Secrets are
// write-only: without this, whoever may change a subscription could read them by pointing it at an endpoint of theirs. The
// fallback is sent none, and the private key of mtls never leaves.
func (s *Subscription) refuseCarriedSecrets(dec *decoder, before *Subscription) {
	given := origins(append(endpoints(before.URL, before.Request.Routes, ""), endpoints(before.PendingURL, before.PendingRoutes, "")...))
	elsewhere := slices.ContainsFunc(endpoints(s.URL, s.Request.Routes, ""), func(u string) bool { return !given[Origin(u)] })
	newTokens := before.Auth.TokenURL != "" && Origin(s.Auth.TokenURL) != Origin(before.Auth.TokenURL)
	for field, h := range s.hidden() {
		switch {
		case !h.set || h.plain != "" || field == FieldSigning || field == FieldPrivateKey:
		case elsewhere || newTokens && field == FieldClientSecret:
			dec.fault(secretPlace(field), "send it again: a secret that is stored doesn't go to another origin by itself")
		}
	}
	if s.Auth.PrivateKey.set && s.Auth.PrivateKey.plain == "" && s.Auth.Certificate != before.Auth.Certificate {
		dec.fault(secretPlace(FieldPrivateKey), "send it with the new certificate, so that the two can be checked against each other")
	}
}

// patchSigning readies a patch of signing. A new scheme starts without the secret of the one before; under the same scheme
// a new secret is refused, because without an overlap of both, deliveries would fail their verification.
func patchSigning(dec *decoder, base, patch map[string]any) {
	v, given := patch["signing"]
	if given && v == nil {
		v = map[string]any{"scheme": nil} // back to the defaults, with the secret that exists
		patch["signing"] = v
	}
	signing, ok := v.(map[string]any)
	if !ok {
		return
	}
	before, _ := base["signing"].(map[string]any)
	scheme, given := signing["scheme"]
	if scheme == nil {
		scheme = SigningHMAC
	}
	secret, secretGiven := signing["secret"]
	_, keeps := secret.(map[string]any)
	switch {
	case given && scheme != before["scheme"]:
		delete(before, "secret")
		if keeps {
			delete(signing, "secret")
		}
	case secretGiven && !keeps:
		dec.fault("/signing/secret", "it can't be changed by a patch: rotate-secret makes a new one that overlaps with it")
		delete(signing, "secret")
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

// decodeObject reads the document over the defaults and applies all rules. Validation says nothing about members that could
// not be read: that has been said.
func decodeObject(dec *decoder, object map[string]any, rules Rules) *Subscription {
	s := &Subscription{}
	s.setDefaults()
	dec.value("", object, reflect.ValueOf(s).Elem())
	check := &decoder{}
	// Absent they have a default; the model's zero stands for that.
	refuseZero(check, object, "retry", "max_attempts")
	refuseZero(check, object, "rate_limit", "burst")
	s.validate(check, rules)
	for _, f := range check.faults {
		if !covered(dec.faults, f) {
			dec.faults = append(dec.faults, f)
		}
	}
	return s
}

func refuseZero(dec *decoder, object map[string]any, group, name string) {
	members, _ := object[group].(map[string]any)
	if n, ok := integer(members[name]); ok && n == 0 {
		dec.fault(pointer("").member(group).member(name), "want a number from 1, or leave it out")
	}
}

func covered(faults Faults, f problem.Fault) bool {
	for _, have := range faults {
		if f.Pointer == have.Pointer || strings.HasPrefix(f.Pointer, have.Pointer+"/") || strings.HasPrefix(have.Pointer, f.Pointer+"/") {
			return true
		}
	}
	return false
}
