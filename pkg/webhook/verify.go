package webhook

import (
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

// Verifier checks Standard Webhooks signatures v1. It is written from the specification and shares no code with Signer, so
// that the two can't be wrong together.
type Verifier struct{ secrets [][]byte }

// NewVerifier reads signing secrets as the API shows them: "whsec_" and base64.
func NewVerifier(secrets ...string) (*Verifier, error) {
	v := &Verifier{}
	for _, s := range secrets {
		encoded, ok := strings.CutPrefix(strings.TrimSpace(s), "whsec_")
		if !ok {
			return nil, errors.New("a signing secret begins with whsec_: it is what creating the subscription showed")
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
	symmetric := false
	for _, s := range strings.Fields(signatures) {
		encoded, ok := strings.CutPrefix(s, "v1,")
		if !ok {
			continue // v1a is ed25519, checked with a public key
		}
		symmetric = true
		got, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			continue
		}
		for _, key := range v.secrets {
			mac := hmac.New(sha256.New, key)
			mac.Write([]byte(id + "." + stamp + "."))
			mac.Write(body)
			if hmac.Equal(got, mac.Sum(nil)) {
				return nil
			}
		}
	}
	if !symmetric {
		return errors.New("it has no v1 signature (HMAC-SHA256)")
	}
	return errors.New("the signature does not fit: another secret, or the body was changed on the way")
}
