package webhook

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Tolerance is how far a request's timestamp may be from the clock: Standard Webhooks' five minutes, so that a
// recorded request can't be sent again later.
const Tolerance = 5 * time.Minute

// Verifier checks Standard Webhooks signatures: v1 (HMAC-SHA256) and v1a (ed25519). It is written from the specification
// and shares no code with Signer, so that the two can't be wrong together.
type Verifier struct {
	secrets [][]byte
	publics []ed25519.PublicKey
}

// NewVerifier reads what a receiver was given, as the API shows it: signing secrets, "whsec_" and base64, and public keys,
// "whpk_" and base64.
func NewVerifier(keys ...string) (*Verifier, error) {
	v := &Verifier{}
	for _, s := range keys {
		s = strings.TrimSpace(s)
		if encoded, ok := strings.CutPrefix(s, "whpk_"); ok {
			key, err := base64.StdEncoding.DecodeString(encoded)
			if err != nil || len(key) != ed25519.PublicKeySize {
				return nil, errors.New("what follows whpk_ is not the base64 of an ed25519 public key: copy signing.public_key whole")
			}
			v.publics = append(v.publics, key)
			continue
		}
		encoded, ok := strings.CutPrefix(s, "whsec_")
		if !ok {
			return nil, errors.New("a signing secret begins with whsec_: it is what creating the subscription showed. With ed25519 the public key begins with whpk_: the subscription shows it as signing.public_key")
		}
		key, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || len(key) == 0 {
			return nil, errors.New("what follows whsec_ in the signing secret is not base64: copy it whole")
		}
		v.secrets = append(v.secrets, key)
	}
	return v, nil
}

// Verify returns nil if a request that arrives now was signed with one of the secrets, lately, or says what is wrong.
func (v *Verifier) Verify(h http.Header, body []byte, now time.Time) error {
	id, stamp, signatures := h.Get("webhook-id"), h.Get("webhook-timestamp"), h.Get("webhook-signature")
	var missing []string
	for name, value := range map[string]string{"webhook-id": id, "webhook-timestamp": stamp, "webhook-signature": signatures} {
		if value == "" {
			missing = append(missing, name)
		}
	}
	if len(missing) == 3 {
		return errors.New("it is not signed")
	}
	if len(missing) > 0 {
		return fmt.Errorf("the header %s is missing", strings.Join(missing, " and "))
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return errors.New("webhook-timestamp is not a number of seconds")
	}
	switch age := now.Sub(time.Unix(seconds, 0)); {
	case age > Tolerance:
		return fmt.Errorf("its timestamp is %s old, more than %s", age.Round(time.Second), Tolerance)
	case age < -Tolerance:
		return fmt.Errorf("its timestamp is %s in the future; is this clock right?", (-age).Round(time.Second))
	}
	checked := false // a signature of a kind that there is a key for
	for _, s := range strings.Fields(signatures) {
		scheme, encoded, _ := strings.Cut(s, ",")
		got, err := base64.StdEncoding.DecodeString(encoded)
		switch {
		case scheme == "v1" && len(v.secrets) > 0:
			checked = true
			if err == nil && v.hmacFits(got, id, stamp, body) {
				return nil
			}
		case scheme == "v1a" && len(v.publics) > 0:
			checked = true
			if err == nil && v.ed25519Fits(got, id, stamp, body) {
				return nil
			}
		}
	}
	switch {
	case checked:
		return errors.New("the signature does not fit: another secret, or the body was changed on the way")
	case len(v.publics) == 0:
		return errors.New("it has no v1 signature (HMAC-SHA256)")
	case len(v.secrets) == 0:
		return errors.New("it has no v1a signature (ed25519)")
	}
	return errors.New("it has neither a v1 nor a v1a signature")
}

func (v *Verifier) hmacFits(got []byte, id, stamp string, body []byte) bool {
	for _, key := range v.secrets {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + stamp + "."))
		mac.Write(body)
		if hmac.Equal(got, mac.Sum(nil)) {
			return true
		}
	}
	return false
}

func (v *Verifier) ed25519Fits(got []byte, id, stamp string, body []byte) bool {
	message := []byte(id + "." + stamp + "." + string(body))
	for _, key := range v.publics {
		if ed25519.Verify(key, message, got) {
			return true
		}
	}
	return false
}
