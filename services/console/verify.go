package console

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/outbound"
	"github.com/oklog/ulid/v2"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"
)

// maxHandshakes is how many endpoints of one subscription are asked at the same time.
const maxHandshakes = 8

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
	urls := asked(sub)
	if err := a.handshakes(ctx, sub, urls); err != nil {
		return nil, err
	}
	changed := errors.New("changed")
	out, err := a.change(ctx, store, p, in.ID, "", action{name: actionVerified, detail: map[string]any{"method": sub.Verification}},
		func(now *subscription.Subscription) (*subscription.Subscription, error) {
			before := now.Clone()
			if now.Verification != sub.Verification || !slices.Equal(asked(now), urls) || !now.Verified(urls) {
				return nil, changed
			}
			if now.State == before.State && len(before.Unverified()) == 0 {
				return nil, nil // it had passed before
			}
			return now, nil
		})
	if errors.Is(err, changed) {
		return nil, refuse(http.StatusConflict, "the subscription was changed while its endpoint was asked: verify it again")
	}
	return out, err
}

// asked are the URLs whose endpoints are asked: those that have not passed, or, where all have, the one in service.
func asked(sub *subscription.Subscription) []string {
	if urls := sub.Unverified(); len(urls) > 0 {
		return urls
	}
	return []string{sub.URL}
}

// handshakes asks the endpoints at urls whether they want the events. The error names all that did not pass.
func (s *Service) handshakes(ctx context.Context, sub *subscription.Subscription, urls []string) error {
	errs := make([]error, len(urls))
	slots := make(chan struct{}, maxHandshakes)
	var group sync.WaitGroup
	for i, url := range urls {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = s.handshake(ctx, sub, url)
		})
	}
	group.Wait()
	var faults []problem.Fault
	status := 0
	for i, err := range errs {
		outcome := "passed"
		var failed *handshakeError
		switch {
		case errors.As(err, &failed):
			outcome = "failed"
			s.log.Info("an endpoint did not pass verification", zap.String("tenant", sub.Tenant), zap.String("subscription", sub.ID),
				zap.String("method", string(sub.Verification)), zap.String("class", string(failed.class)), zap.Int("status", failed.status), zap.String("detail", failed.detail))
			faults = append(faults, faultAt(memberOf(sub, urls[i]), failed.detail))
			status = max(status, failed.status)
		case err != nil:
			return err
		}
		s.metrics.verifications.Add(ctx, 1, metric.WithAttributes(attribute.String("method", string(sub.Verification)), attribute.String("outcome", outcome)))
	}
	if len(faults) == 0 {
		return nil
	}
	prob := problem.New(http.StatusUnprocessableEntity, "the endpoint did not pass verification", faults...)
	if status != 0 {
		prob = prob.With("http_status", status)
	}
	return apiError{prob}
}

// memberOf is the place of the member of a subscription that named a URL.
func memberOf(sub *subscription.Subscription, url string) string {
	switch url {
	case sub.PendingURL:
		return "/pending_url"
	case sub.PendingFallbackURL:
		return "/pending_fallback_url"
	case sub.URL:
		return "/url"
	case sub.FallbackURL:
		return "/fallback_url"
	}
	for _, routes := range []struct {
		at string
		of map[string]string
	}{{"/pending_routes", sub.PendingRoutes}, {"/request/routes", sub.Request.Routes}} {
		for pattern, route := range routes.of {
			if route == url {
				return routes.at + "/" + escapePointer(pattern)
			}
		}
	}
	return "/url"
}

// handshake asks one endpoint whether it wants the events. A *handshakeError means that it did not pass.
func (s *Service) handshake(ctx context.Context, sub *subscription.Subscription, url string) error {
	switch sub.Verification {
	case subscription.VerifyManual:
		return nil // an admin's word
	case subscription.VerifyAck:
		d, err := s.sampleFor(sub, url)
		if err != nil {
			return err
		}
		_, err = s.ask(ctx, sub, url, &d)
		return err
	case subscription.VerifyOptions:
		return s.options(ctx, sub, url)
	}
	return s.challenge(ctx, sub, url)
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
	answer, err := s.ask(ctx, sub, url, &event.Delivery{ID: handshakeID(), Method: http.MethodPost, ContentType: "application/json", Body: body})
	if err != nil {
		return err
	}
	if !echoes(answer.Body, challenge) {
		return &handshakeError{detail: `the endpoint answered, but not with the challenge: want 2xx with JSON whose member "challenge" equals the one sent, or exactly it as text`, status: answer.Status}
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

// options is the handshake of the CloudEvents webhook specification, section 4: the endpoint names who may send to it.
func (s *Service) options(ctx context.Context, sub *subscription.Subscription, url string) error {
	headers := map[string]string{"WebHook-Request-Origin": s.cfg.WebhookOrigin}
	if sub.RateLimit != nil {
		headers["WebHook-Request-Rate"] = strconv.Itoa(sub.RateLimit.PerSecond * 60) // it counts a minute's requests
	}
	answer, err := s.ask(ctx, sub, url, &event.Delivery{ID: handshakeID(), Method: http.MethodOptions, Headers: headers})
	if err != nil {
		return err
	}
	if allowed := answer.Header.Get("WebHook-Allowed-Origin"); allowed != "*" && allowed != s.cfg.WebhookOrigin {
		return &handshakeError{detail: fmt.Sprintf("the endpoint answered, but its header WebHook-Allowed-Origin is neither %q nor \"*\"", s.cfg.WebhookOrigin), status: answer.Status}
	}
	return nil
}

func handshakeID() string { return "ver_" + ulid.Make().String() }

// ask sends a request as deliveries are sent, and returns the answer if its status is 2xx.
func (s *Service) ask(ctx context.Context, sub *subscription.Subscription, url string, d *event.Delivery) (outbound.Answer, error) {
	target, err := s.targetAt(sub, url)
	if err != nil {
		return outbound.Answer{}, err
	}
	defer target.Close()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.VerifyTimeout)
	defer cancel()
	answer := target.Send(ctx, d, outbound.Attempt{Traceparent: telemetry.NewTraceparent()})
	switch {
	case answer.Err != nil:
		return answer, unanswered(answer.Err)
	case answer.Status < 200 || answer.Status > 299:
		detail := "the endpoint answered " + strconv.Itoa(answer.Status) + "; want 2xx"
		if answer.Status >= 300 && answer.Status < 400 {
			detail += ", and redirects are not followed"
		}
		return answer, &handshakeError{detail: detail, status: answer.Status}
	}
	return answer, nil
}

// targetAt is where a subscription's requests to a URL go, which may wait for its verification, and then with the auth that
// waits beside it.
func (s *Service) targetAt(sub *subscription.Subscription, url string) (*outbound.Target, error) {
	if url != sub.URL { // that one is asked again as it serves
		sub = sub.Proposed()
	}
	target, err := s.sender.Target(sub, s.deps.Box)
	if err != nil {
		return nil, err
	}
	return target.At(url)
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
		// Its text is made of a status and the standard's codes, of nothing else that was answered.
		outbound.ClassOAuth2: "no access token was to be had: " + err.Error(),
	}[class]
	if detail == "" {
		detail = "the request failed (" + string(class) + ")"
	}
	return &handshakeError{detail: detail, class: class}
}
