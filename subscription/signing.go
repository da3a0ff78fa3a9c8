package subscription

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/pkg/webhook"
)

// The signature schemes.
const (
	SigningHMAC    = "hmac"
	SigningEd25519 = "ed25519"
	SigningNone    = "none"
)

// Signing says how deliveries are signed.
type Signing struct {
	Scheme string `json:"scheme" enum:"hmac,ed25519,none" doc:"Standard Webhooks signatures: v1 by hmac, v1a by ed25519 (hmac)"`
	// Secret may be given when the subscription is created or its scheme changes, to keep one that an endpoint already
	// knows; else it is made. It is the shared secret, or the private key of ed25519.
	Secret Hidden `json:"secret,omitzero" doc:"the key, to keep one that the endpoint knows; else it is made"`
	// PublicKey verifies ed25519 signatures.
	PublicKey string `json:"public_key,omitempty" readOnly:"true" doc:"verifies ed25519 signatures"`
	// PreviousPublicKey verifies those of the key before, where that was one of ed25519, until PreviousExpiresAt.
	PreviousPublicKey string `json:"previous_public_key,omitempty" readOnly:"true" doc:"verifies those of the key before, until previous_expires_at"`
	// PreviousExpiresAt is when the key before stops signing beside the present one; zero when there was none.
	PreviousExpiresAt time.Time `json:"previous_expires_at,omitzero" readOnly:"true" doc:"until when the key before signs as well"`
}

func (s *Signing) validate(dec *decoder, at pointer) {
	oneOf(dec, at.member("scheme"), s.Scheme, SigningHMAC, SigningEd25519, SigningNone)
	if s.Scheme == SigningNone && s.Secret.set {
		dec.fault(at.member("secret"), "it doesn't belong to the scheme none")
	}
	if s.Secret.plain == "" {
		return
	}
	key, err := webhook.ParseKey(s.Secret.plain)
	switch isPrivate := key.Public() != ""; {
	case err != nil:
		dec.fault(at.member("secret"), err.Error())
	case s.Scheme == SigningHMAC && isPrivate:
		dec.faultf(at.member("secret"), "want a shared secret, %s…, for hmac", webhook.PrefixSecret)
	case s.Scheme == SigningEd25519 && !isPrivate:
		dec.faultf(at.member("secret"), "want a private key, %s…, for ed25519", webhook.PrefixPrivate)
	}
}

// newSecret makes a shared secret of 32 random bytes.
func newSecret() (string, error) {
	key, err := randomBytes(32)
	if err != nil {
		return "", fmt.Errorf("make a signing secret: %w", err)
	}
	return webhook.PrefixSecret + base64.StdEncoding.EncodeToString(key), nil
}

func newPrivateKey() (string, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make a signing key: %w", err)
	}
	return webhook.PrefixPrivate + base64.StdEncoding.EncodeToString(private), nil
}

// MakeSigningKey gives the subscription the key that its scheme needs, where it has none: after Parse, and after a Patch
// that changed the scheme. The key before, if there is one, signs beside it for `overlap` from now. What it returns is the
// secret to show this once: a shared secret that was made here. It is empty in every other case; of an ed25519 key the
// object shows the public half. Seal has to follow.
func (s *Subscription) MakeSigningKey(box *secret.Box, now time.Time, overlap time.Duration) (shown string, err error) {
	given := s.Signing.Secret.plain
	if s.Signing.Secret.set && given == "" {
		return "", nil // the one that is stored
	}
	if s.Signing.Scheme == SigningNone {
		return "", nil
	}
	if err := s.retireKey(box, now, overlap); err != nil {
		return "", err
	}
	if given == "" {
		if s.Signing.Scheme == SigningEd25519 {
			given, err = newPrivateKey()
		} else {
			given, err = newSecret()
			shown = given
		}
		if err != nil {
			return "", err
		}
	}
	key, err := webhook.ParseKey(given)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", FieldSigning, err)
	}
	s.Signing.Secret, s.Signing.PublicKey = NewHidden(given), key.Public()
	return shown, nil
}

// retireKey makes the key that is stored the previous one.
func (s *Subscription) retireKey(box *secret.Box, now time.Time, overlap time.Duration) error {
	s.Signing.PreviousPublicKey, s.Signing.PreviousExpiresAt = "", time.Time{}
	if s.Sealed[FieldSigning] == "" || overlap <= 0 {
		return nil
	}
	plain, err := s.open(box, FieldSigning)
	if err != nil {
		return err
	}
	key, err := webhook.ParseKey(plain)
	if err != nil {
		return fmt.Errorf("read %s of %s: %w", FieldSigning, s.ID, err)
	}
	sealed, err := box.Seal([]byte(plain), s.Tenant, s.ID, FieldPrevious)
	if err != nil {
		return fmt.Errorf("seal %s: %w", FieldPrevious, err)
	}
	s.Sealed[FieldPrevious] = sealed
	s.Signing.PreviousPublicKey, s.Signing.PreviousExpiresAt = key.Public(), now.Add(overlap).UTC().Truncate(time.Second)
	return nil
}

// Rotate replaces the signing key and seals the new one. Both sign for `overlap` from now: receivers accept either, and can
// change over in that time. What it returns is the new shared secret, to be shown this once, and empty for ed25519. A
// subscription that doesn't sign is refused with Faults.
func (s *Subscription) Rotate(box *secret.Box, now time.Time, overlap time.Duration) (shown string, err error) {
	if s.Signing.Scheme == SigningNone {
		return "", Faults{{Pointer: problem.Pointer("/signing/scheme"), Detail: "it signs nothing, so there is no secret to rotate"}}
	}
	s.Signing.Secret = Hidden{}
	if shown, err = s.MakeSigningKey(box, now, overlap); err != nil {
		return "", err
	}
	return shown, s.Seal(box)
}
