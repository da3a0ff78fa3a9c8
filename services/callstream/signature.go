package callstream

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

// signatureTolerance is how far a delivery's timestamp may be from our clock: Standard Webhooks' five minutes, so that a
// recorded request can't be sent again later.
const signatureTolerance = 5 * time.Minute

// verifier checks the Standard Webhooks signature v1 of deliveries.
type verifier struct {
	secrets [][]byte
	now     func() time.Time
}

// newVerifier reads signing secrets as the API shows them: "whsec_" and base64.
func newVerifier(secrets []string, now func() time.Time) (*verifier, error) {
	v := &verifier{now: now}
	for _, s := range secrets {
		encoded, ok := strings.CutPrefix(strings.TrimSpace(s), "whsec_")
		if !ok {
			return nil, errors.New("--secret must be the one that the subscription was created with: whsec_…")
		}
		key, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || len(key) == 0 {
			return nil, errors.New("--secret: what follows whsec_ is not base64; copy it whole")
		}
		v.secrets = append(v.secrets, key)
	}
	return v, nil
}

// verify returns nil if the request was signed with one of the secrets, lately, or says what is wrong.
func (v *verifier) verify(h http.Header, body []byte) error {
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
	switch age := v.now().Sub(time.Unix(seconds, 0)); {
	case age > signatureTolerance:
		return fmt.Errorf("its timestamp is %s old, more than %s", age.Round(time.Second), signatureTolerance)
	case age < -signatureTolerance:
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
