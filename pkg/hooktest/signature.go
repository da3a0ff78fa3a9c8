package hooktest

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

// Tolerance is how far webhook-timestamp may be from now.
const Tolerance = 5 * time.Minute

// Verify checks the Standard Webhooks v1 signature of a request: one of the signatures in webhook-signature must be the
// HMAC-SHA256 of "id.timestamp.body" under one of the secrets ("whsec_" and base64). It is written from the
// specification and shares no code with what signs, so that the two cannot be wrong together.
func Verify(header http.Header, body []byte, now time.Time, secrets ...string) error {
	id, stamp := header.Get("webhook-id"), header.Get("webhook-timestamp")
	if id == "" || stamp == "" {
		return errors.New("webhook-id or webhook-timestamp is missing")
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return fmt.Errorf("webhook-timestamp: %w", err)
	}
	if off := now.Sub(time.Unix(seconds, 0)); off > Tolerance || off < -Tolerance {
		return fmt.Errorf("webhook-timestamp is %s off", off)
	}
	for _, secret := range secrets {
		encoded, ok := strings.CutPrefix(secret, "whsec_")
		if !ok {
			return errors.New("the secret doesn't begin with whsec_")
		}
		key, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return fmt.Errorf("the secret: %w", err)
		}
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + stamp + "."))
		mac.Write(body)
		want := mac.Sum(nil)
		for one := range strings.FieldsSeq(header.Get("webhook-signature")) {
			got, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(one, "v1,"))
			if strings.HasPrefix(one, "v1,") && err == nil && hmac.Equal(got, want) {
				return nil
			}
		}
	}
	return errors.New("no signature matches")
}
