package console

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/pkg/webhook"
	"github.com/callstream/callstream/schemas/catalog"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/payload"
	"github.com/oklog/ulid/v2"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"
)

// maxVerifyAnswer is how much of an endpoint's answer is read. A challenge takes far less.
const maxVerifyAnswer = 16 << 10

// handshakeError says why an endpoint did not pass. Its text goes to the caller, so it never holds what the endpoint
// answered: the request goes wherever the caller said, and must not become a way to read from there.
type handshakeError struct {
	detail string
	status int // HTTP status of the answer; 0 without one
	class  egress.Class
}

func (e *handshakeError) Error() string { return e.detail }

func (a *apiSet) verify(ctx context.Context, store *storage.Store, p auth.Principal, in *actOnSubscription) (*oneSubscription, error) {
	if err := onlyMembers(in.RawBody); err != nil {
		return nil, err
	}
	version, err := expectedVersion(in.IfMatch)
	if err != nil {
		return nil, err
	}
	sub, err := store.Subscription(ctx, p.Tenant, in.ID)
	if err != nil {
		return nil, err
	}
	if version != 0 && sub.Version != version {
		return nil, storage.ErrStale
	}
	if sub.Verification.ByAdminOnly() && !p.Has(auth.ScopeAdmin) {
		return nil, refuse(http.StatusForbidden, "only an admin may verify by "+string(sub.Verification))
	}
	url := sub.VerifyURL()
	if err := a.handshake(ctx, sub, url); err != nil {
		return nil, a.failedHandshake(ctx, sub, err)
	}
	a.countVerification(ctx, sub, "passed")
	action := actionVerified + " by " + string(sub.Verification)
	return a.change(ctx, store, p, in.ID, "", action, func(now *subscription.Subscription) (*subscription.Subscription, error) {
		before := now.Clone()
		if now.Verification != sub.Verification || !now.Verified(url) {
			return nil, refuse(http.StatusConflict, "the subscription was changed while its endpoint was asked: verify it again")
		}
		if now.State == before.State && now.URL == before.URL && now.PendingURL == before.PendingURL {
			return nil, nil // it had passed before
		}
		return now, nil
	})
}

func (a *apiSet) countVerification(ctx context.Context, sub *subscription.Subscription, outcome string) {
	a.metrics.verifications.Add(ctx, 1, metric.WithAttributes(attribute.String("method", string(sub.Verification)), attribute.String("outcome", outcome)))
}

func (a *apiSet) failedHandshake(ctx context.Context, sub *subscription.Subscription, err error) error {
	var failed *handshakeError
	if !errors.As(err, &failed) {
		return err
	}
	a.countVerification(ctx, sub, "failed")
	a.log.Info("an endpoint did not pass verification", zap.String("tenant", sub.Tenant), zap.String("subscription", sub.ID),
		zap.String("method", string(sub.Verification)), zap.String("class", string(failed.class)), zap.Int("status", failed.status), zap.String("detail", failed.detail))
	member := "#/url"
	if sub.PendingURL != "" {
		member = "#/pending_url"
	}
	prob := problem.New(http.StatusUnprocessableEntity, "the endpoint did not pass verification", problem.Fault{Pointer: member, Detail: failed.detail})
	if failed.status != 0 {
		prob = prob.With("http_status", failed.status)
	}
	return apiError{prob}
}

// handshake asks the endpoint whether it wants the events. A *handshakeError means that it did not pass.
func (s *Service) handshake(ctx context.Context, sub *subscription.Subscription, url string) error {
	switch sub.Verification {
	case subscription.VerifyManual:
		return nil // an admin's word
	case subscription.VerifyAck:
		body, contentType, err := sampleFor(sub)
		if err != nil {
			return err
		}
		_, err = s.ask(ctx, sub, url, body, contentType)
		return err
	case subscription.VerifyChallenge:
		return s.challenge(ctx, sub, url)
	}
	return refuse(http.StatusUnprocessableEntity, "the verification "+string(sub.Verification)+" isn't supported yet")
}

func (s *Service) challenge(ctx context.Context, sub *subscription.Subscription, url string) error {
	raw := make([]byte, 24)
	if _, err := rand.Read(raw); err != nil {
		return fmt.Errorf("make a challenge: %w", err)
	}
	challenge := base64.RawURLEncoding.EncodeToString(raw)
	body, err := json.Marshal(map[string]string{"type": "endpoint.verification", "challenge": challenge})
	if err != nil {
		return fmt.Errorf("make a challenge: %w", err)
	}
	answer, err := s.ask(ctx, sub, url, body, "application/json")
	if err != nil {
		return err
	}
	if !echoes(answer, challenge) {
		return &handshakeError{detail: `the endpoint answered, but not with the challenge: want 2xx with JSON whose member "challenge" equals the one sent, or exactly it as text`, status: http.StatusOK}
	}
	return nil
}

// echoes says whether an answer holds the challenge: as the member of a JSON object, or as exactly that text.
func echoes(answer []byte, challenge string) bool {
	same := func(s string) bool { return subtle.ConstantTimeCompare([]byte(s), []byte(challenge)) == 1 }
	if same(string(bytes.TrimSpace(answer))) {
		return true
	}
	var object struct {
		Challenge string `json:"challenge"`
	}
	return json.Unmarshal(answer, &object) == nil && same(object.Challenge)
}

// ask sends a signed request and returns the answer's body if its status is 2xx.
func (s *Service) ask(ctx context.Context, sub *subscription.Subscription, url string, body []byte, contentType string) ([]byte, error) {
	credentials, err := sub.Open(s.deps.Box)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.VerifyTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, &handshakeError{detail: "the URL can't be asked", class: egress.ClassInvalid}
	}
	for name, value := range sub.Request.Headers {
		req.Header.Set(name, value)
	}
	credentials.Authorize(req.Header)
	id, timestamp := "ver_"+ulid.Make().String(), strconv.FormatInt(s.deps.Now().Unix(), 10)
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "callstream/"+cmp.Or(s.deps.Version, "dev"))
	req.Header.Set("Webhook-Id", id)
	req.Header.Set("Webhook-Timestamp", timestamp)
	if signature := webhook.NewSigner(credentials.Signing).Sign(id, timestamp, body); signature != "" {
		req.Header.Set("Webhook-Signature", signature)
	}
	resp, err := s.egress.RoundTrip(req)
	if err != nil {
		return nil, unanswered(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxVerifyAnswer))
	if err != nil {
		return nil, unanswered(err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		detail := "the endpoint answered " + strconv.Itoa(resp.StatusCode) + "; want 2xx"
		if resp.StatusCode >= 300 && resp.StatusCode < 400 {
			detail += ", and redirects are not followed"
		}
		return nil, &handshakeError{detail: detail, status: resp.StatusCode}
	}
	return answer, nil
}

func unanswered(err error) error {
	class := egress.ClassOf(err)
	detail := map[egress.Class]string{
		egress.ClassDNS:     "its name does not resolve",
		egress.ClassBlocked: "it resolves to a private or loopback address, which is allowed only where CALLSTREAM_ALLOW_PRIVATE_ENDPOINTS is set",
		egress.ClassRefused: "nothing listens there",
		egress.ClassConnect: "it can't be connected to",
		egress.ClassTLS:     "its TLS certificate or handshake is not valid",
		egress.ClassTimeout: "it did not answer in time",
		egress.ClassInvalid: "the URL can't be asked",
	}[class]
	if detail == "" {
		detail = "the request failed (" + string(class) + ")"
	}
	return &handshakeError{detail: detail, class: class}
}

// sampleFor renders the catalogue's sample of the first event type that the subscription asks for, marked as a test.
func sampleFor(sub *subscription.Subscription) (body []byte, contentType string, err error) {
	for _, t := range catalog.Types() {
		if !sub.MatchesType(t.Name) {
			continue
		}
		e, err := event.Parse(t.Sample)
		if err != nil {
			return nil, "", fmt.Errorf("read the catalogue's sample of %s: %w", t.Name, err)
		}
		e.Tenant, e.Test, e.HasTest = sub.Tenant, true, true
		if e.ID == "" {
			e.ID = "evt_" + ulid.Make().String()
		}
		if e.Time.IsZero() {
			e.Time = time.Now().UTC()
		}
		renderer, err := payload.Compile(sub.Payload, sub.Request.Method)
		if err != nil {
			return nil, "", fmt.Errorf("render the sample of %s: %w", t.Name, err)
		}
		rendered, err := renderer.Render(e)
		if err != nil {
			return nil, "", fmt.Errorf("render the sample of %s: %w", t.Name, err)
		}
		return rendered.Body, rendered.ContentType, nil
	}
	return nil, "", refuse(http.StatusUnprocessableEntity, "no event type of the catalogue matches the subscription's events")
}
