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
	return []string{"id", "tenant", "state", "state_reason", "failing_since", "pending_url", "pending_routes", "pending_fallback_url", "pending_auth", "version", "created_at", "updated_at", "secret"}
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
	change := changes{patch: patch, base: base, waits: map[string]bool{}}
	for _, member := range []string{"url", "routes", "fallback_url", "auth"} {
		_, change.waits[member] = patch[waiting+member]
	}
	change.waits["auth"] = change.waits["auth"] || s.PendingAuth == nil
	pendingAuth := base["pending_auth"]
	dec := &decoder{}
	refuseReadOnly(dec, "", patch, base, ReadOnly())
	refuseReadOnly(dec, "/signing", patch["signing"], base["signing"], ReadOnlySigning())
	patchSigning(dec, base, patch)
	auth := change.of("auth")
	source := &s.Auth
	if !auth {
		delete(patch, "auth")
	} else if s.PendingAuth != nil {
		source, base["auth"] = s.PendingAuth, pendingAuth
	}
	dropOtherAuth(base, patch)
	merged, _ := mergePatch(base, patch).(map[string]any)
	next := decodeObject(dec, merged, rules)
	next.Sealed = s.Clone().Sealed
	if source == s.PendingAuth {
		next.takeSealed("", waiting)
	}
	next.refuseUnknownSecrets(dec)
	next.Auth.refuseUnprovenSecrets(dec, source)
	if s.State != StatePending {
		next.keepServing(s, change, auth)
	}
	next.refuseCarriedSecrets(dec, s, auth, source == s.PendingAuth)
	if _, given := patch["activate"]; given && s.State != StatePending && next.Activate != nil {
		dec.fault("/activate", "it has had its effect: use /activate and /pause")
	}
	if len(dec.faults) > 0 {
		return nil, dec.sorted()
	}
	next.ID, next.Tenant, next.State, next.StateReason, next.Version = s.ID, s.Tenant, s.State, s.StateReason, s.Version
	if next.SameEndpoints(s) {
		next.FailingSince = s.FailingSince
	}
	next.CreatedAt, next.UpdatedAt = s.CreatedAt, s.UpdatedAt
	if next.Signing.Scheme == s.Signing.Scheme {
		secret := next.Signing.Secret
		next.Signing = s.Signing
		next.Signing.Secret = secret
	}
	return next, nil
}

// changes are the members that a patch is to change.
type changes struct {
	patch, base map[string]any
	// waits are the members of which the patch also holds what waits to take their place: who sends back an object that was
	// read has not taken that back.
	waits map[string]bool
}

// of says whether a member is to change: it is given and, where what waits is too, with another value than it has.
func (c changes) of(name string) bool {
	v, given := c.patch[name]
	return given && (!c.waits[name] || !reflect.DeepEqual(v, c.base[name]))
}

// ofRoute says the same of the route of a pattern.
func (c changes) ofRoute(pattern string) bool {
	routes, given := c.patch["request"]
	if request, ok := routes.(map[string]any); ok {
		routes, given = request["routes"]
	}
	to, ok := routes.(map[string]any)
	if !ok {
		return given // all of them go
	}
	v, given := to[pattern]
	request, _ := c.base["request"].(map[string]any)
	before, _ := request["routes"].(map[string]any)
	return given && (!c.waits["routes"] || !reflect.DeepEqual(v, before[pattern]))
}

// keepServing keeps what has been verified in service until what takes its place has passed too.
func (s *Subscription) keepServing(before *Subscription, change changes, auth bool) {
	// The fallback passed without auth, so that is new to it.
	verified := origins(before.authenticated())
	if !change.of("url") {
		s.PendingURL = before.PendingURL
	} else if !verified[Origin(s.URL)] {
		s.PendingURL, s.URL = s.URL, before.URL
	}
	if !change.of("fallback_url") {
		s.PendingFallbackURL = before.PendingFallbackURL
	} else if s.FallbackURL != "" && !verified[Origin(s.FallbackURL)] && Origin(s.FallbackURL) != Origin(before.FallbackURL) {
		s.PendingFallbackURL, s.FallbackURL = s.FallbackURL, before.FallbackURL
	}
	pending := map[string]string{}
	for pattern, to := range before.PendingRoutes {
		if !change.ofRoute(pattern) {
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
	if !s.authWaits() {
		return // auth is in force, whichever
	}
	// Auth waits with the endpoints that it was given for.
	if auth {
		given := s.Auth
		s.PendingAuth = &given
		s.takeSealed(waiting, "")
	} else {
		s.PendingAuth = before.Clone().PendingAuth
	}
	s.Auth = before.Auth
	for field := range s.Auth.hidden() {
		delete(s.Sealed, field)
		if v, ok := before.Sealed[field]; ok {
			s.Sealed[field] = v
		}
	}
}

// authWaits says whether an endpoint waits that is sent auth: the fallback is not.
func (s *Subscription) authWaits() bool { return s.PendingURL != "" || len(s.PendingRoutes) > 0 }

// takeSealed stores the sealed secrets of auth that stand under the names with the one prefix under those with the other.
func (s *Subscription) takeSealed(to, from string) {
	for field := range s.Auth.hidden() {
		delete(s.Sealed, to+field)
		if v, ok := s.Sealed[from+field]; ok {
			s.Sealed[to+field] = v
		}
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
//
// given says that the patch brought auth, which was merged into what waited if fromPending.
func (s *Subscription) refuseCarriedSecrets(dec *decoder, before *Subscription, given, fromPending bool) {
	serving, proposed := before.authenticated(), before.Proposed().authenticated()
	check := func(auth *Auth, pending bool, targets []string) {
		known := origins(serving)
		if pending {
			known = origins(proposed)
		} else if before.PendingAuth == nil {
			known = origins(append(serving, proposed...))
		}
		if !slices.ContainsFunc(targets, func(u string) bool { return !known[Origin(u)] }) {
			return
		}
		for field, h := range auth.hidden() {
			if h.set && h.plain == "" && field != FieldPrivateKey {
				dec.fault(secretPlace(field), sendAgain)
			}
		}
	}
	if !s.authWaits() {
		check(&s.Auth, given && fromPending, s.authenticated())
		return
	}
	next := s.Proposed() // what serves goes nowhere that it didn't
	check(&next.Auth, given && fromPending || !given && before.PendingAuth != nil, next.authenticated())
}

const sendAgain = "send it again: a secret that is stored doesn't go to another origin by itself"

// authenticated are the endpoints that are sent auth.
func (s *Subscription) authenticated() []string { return endpoints(s.URL, s.Request.Routes, "") }

// refuseUnprovenSecrets notes a fault for a secret that is kept while what it goes with changes.
func (a *Auth) refuseUnprovenSecrets(dec *decoder, before *Auth) {
	if a.ClientSecret.set && a.ClientSecret.plain == "" && Origin(a.TokenURL) != Origin(before.TokenURL) {
		dec.fault(secretPlace(FieldClientSecret), sendAgain)
	}
	if a.PrivateKey.set && a.PrivateKey.plain == "" && a.Certificate != before.Certificate {
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
	refuseEmpty(check, object, "retry", "retry_on")
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

// refuseEmpty does the same for a list whose default is not the empty one.
func refuseEmpty(dec *decoder, object map[string]any, group, name string) {
	members, _ := object[group].(map[string]any)
	if list, ok := members[name].([]any); ok && len(list) == 0 {
		dec.fault(pointer("").member(group).member(name), "name what is tried again, or leave it out; max_attempts 1 tries nothing again")
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
