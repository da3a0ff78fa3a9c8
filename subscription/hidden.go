package subscription

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/callstream/callstream/pkg/secret"
)

// The names of the sealed fields, which are part of what seals them.
const (
	FieldSigning      = "signing.secret"
	FieldPrevious     = "signing.previous" // the key before, while both sign
	FieldToken        = "auth.token"
	FieldPassword     = "auth.password"
	FieldValue        = "auth.value"
	FieldClientSecret = "auth.client_secret"
	FieldPrivateKey   = "auth.private_key"
)

// Hidden is a secret member of the document. It can be written, never read: as JSON and in logs it only says whether it
// is set. Reading {"set": true} keeps the secret that is stored, so that an object that was read can be sent back.
type Hidden struct {
	plain string
	set   bool
}

// NewHidden returns a Hidden that holds plain.
func NewHidden(plain string) Hidden { return Hidden{plain: plain, set: plain != ""} }

// IsZero says that no secret is set.
func (h Hidden) IsZero() bool { return !h.set }

// String never shows the secret.
func (h Hidden) String() string {
	if h.set {
		return "[set]"
	}
	return "[not set]"
}

// GoString never shows the secret.
func (h Hidden) GoString() string { return h.String() }

// MarshalJSON says whether the secret is set.
func (h Hidden) MarshalJSON() ([]byte, error) {
	if h.set {
		return []byte(`{"set":true}`), nil
	}
	return []byte(`{"set":false}`), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (h *Hidden) UnmarshalJSON(raw []byte) error {
	var v struct {
		Set bool `json:"set"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	*h = Hidden{set: v.Set}
	return nil
}

func (h *Hidden) decode(dec *decoder, at pointer, v any) {
	switch v := v.(type) {
	case string:
		if v == "" {
			dec.fault(at, "the secret is empty")
		}
		*h = NewHidden(v)
		return
	case map[string]any:
		if set, ok := v["set"].(bool); ok && len(v) == 1 {
			h.set = set
			return
		}
	}
	dec.fault(at, `want the secret as a string, or {"set": true} to keep it`)
}

// waiting begins the names under which the secrets of PendingAuth are stored. They are sealed under the names that they
// will have, because nobody can seal them anew when the endpoint passes.
const waiting = "pending_"

// hidden are the secret members by the name that they are stored under.
func (s *Subscription) hidden() map[string]*Hidden {
	hidden := s.Auth.hidden()
	if s.PendingAuth != nil {
		for field, h := range s.PendingAuth.hidden() {
			hidden[waiting+field] = h
		}
	}
	hidden[FieldSigning] = &s.Signing.Secret
	return hidden
}

func (a *Auth) hidden() map[string]*Hidden {
	return map[string]*Hidden{
		FieldToken: &a.Token, FieldPassword: &a.Password, FieldValue: &a.Value, FieldClientSecret: &a.ClientSecret, FieldPrivateKey: &a.PrivateKey,
	}
}

// Seal moves the secrets that were written into Sealed and forgets them. Sealed secrets of members that are no longer
// set are dropped. The subscription must have its ID and Tenant: they are part of the seal. One that is to sign must have a
// key (MakeSigningKey).
func (s *Subscription) Seal(box *secret.Box) error {
	if s.Signing.Scheme != SigningNone && !s.Signing.Secret.set {
		return fmt.Errorf("seal %s: the scheme %s needs a key", FieldSigning, s.Signing.Scheme)
	}
	sealed := make(map[string]string, len(s.Sealed)+1)
	if previous := s.Sealed[FieldPrevious]; previous != "" && !s.Signing.PreviousExpiresAt.IsZero() {
		sealed[FieldPrevious] = previous
	}
	for field, h := range s.hidden() {
		switch {
		case h.plain != "":
			v, err := box.Seal([]byte(h.plain), s.Tenant, s.ID, strings.TrimPrefix(field, waiting))
			if err != nil {
				return fmt.Errorf("seal %s: %w", field, err)
			}
			sealed[field] = v
			h.plain, h.set = "", true
		case h.set:
			v, ok := s.Sealed[field]
			if !ok {
				return fmt.Errorf("seal %s: it is marked as set, but nothing is stored", field)
			}
			sealed[field] = v
		}
	}
	s.Sealed = sealed
	return nil
}
