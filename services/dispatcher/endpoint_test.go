package dispatcher

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/outbound"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap/zapcore"
)

// P-15: deliveries wait for the token endpoint as they wait for the endpoint: by the schedule, and are not dead at once.
func TestDeliveriesWaitForAToken(t *testing.T) {
	tokens := hooktest.StartTokens(t, hooktest.TokensOptions{ClientID: "client", ClientSecret: "planted-secret", Answer: func(n int) hooktest.Answer {
		if n == 1 {
			return hooktest.Answer{Status: http.StatusServiceUnavailable}
		}
		return hooktest.Answer{}
	}})
	var once sync.Once
	hook := receiver(t, func(q *hooktest.Request) hooktest.Answer {
		once.Do(tokens.Revoke) // the first that arrives comes with a token that has just been revoked
		return tokens.Check(q)
	})
	r := newRig(t, nil)
	r.feed(subscribed(t, "sub_1", hook.URL(), func(s *subscription.Subscription) {
		s.Retry = subscription.Retry{MaxAttempts: 50, RetryOn: []string{"5xx"}}
		s.Auth = subscription.Auth{Type: subscription.AuthOAuth2, TokenURL: tokens.URL(), ClientID: "client", ClientSecret: subscription.NewHidden("planted-secret")}
	}))
	r.start()
	r.deliver("sub_1", 1, nil)
	log := r.read(topic.Attempts)
	var all []*event.Attempt
	until(t, "it is delivered", func() bool {
		all = decoded[event.Attempt](r, log, len(log.records()))
		return len(all) > 0 && all[len(all)-1].Outcome == outcomeDelivered
	})
	seen := map[string]bool{}
	for _, a := range all {
		seen[a.ErrorClass] = true
		if a.ErrorClass == string(outbound.ClassOAuth2) && (a.HTTPStatus != 0 || a.Error == "" || a.URL != hook.URL()) {
			t.Errorf("without a token: %+v", a)
		}
	}
	if !seen["oauth2"] || !seen["http_4xx"] || len(r.read(topic.DeadLetters).records()) != 0 {
		t.Errorf("the attempts ended as %v", seen)
	}
	r.done()
}

// P-10: a dispatcher that runs on while a rotation's overlap ends stops signing with the key before.
func TestTheOverlapEndsWhileRunning(t *testing.T) {
	hook := hooktest.Start(t, hooktest.Options{})
	r := newRig(t, nil)
	box := testBox(t)
	sub := &subscription.Subscription{
		ID: "sub_1", Tenant: "acme", URL: hook.URL(), State: subscription.StateActive, Events: []string{"*"}, Version: 1,
		Signing: subscription.Signing{Scheme: subscription.SigningHMAC, Secret: subscription.NewHidden(testSecret)},
	}
	if err := sub.Seal(box); err != nil {
		t.Fatal(err)
	}
	newest, err := sub.Rotate(box, time.Now(), 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	record, err := sub.Record(1)
	if err != nil {
		t.Fatal(err)
	}
	r.feed(record)
	r.start()
	signatures := func() int {
		before := hook.Total()
		r.deliver("sub_1", 1, nil)
		waitFor(t, hook, before+1)
		return len(strings.Fields(hook.Requests()[before].Header.Get("webhook-signature")))
	}
	hook.SetSecrets(testSecret)
	if n := signatures(); n != 2 {
		t.Fatalf("%d signatures", n)
	}
	if faults := hook.Faults(); len(faults) > 0 {
		t.Errorf("who has the secret before: %v", faults[0].Fault)
	}
	hook.SetSecrets(newest)
	until(t, "the secret before signs no more", func() bool { return signatures() == 1 })
	if faults := hook.Faults(); len(faults) > 0 {
		t.Errorf("who has the new secret: %v", faults[0].Fault)
	}
}

// Targets that are prepared for one version are closed when another is read, and when nothing was sent for long.
func TestTargetsEndWithTheirVersion(t *testing.T) {
	hook := receiver(t, nil)
	r := newRig(t, nil)
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	s := r.start()
	r.deliver("sub_1", 1, nil)
	waitFor(t, hook, 1)
	state := &s.scheduler.shardOf(shardKey{subscription: "sub_1"}, limits{inFlight: 1}).sub
	if state.target.Load() == nil {
		t.Fatal("there is no target")
	}
	if err := s.WaitApplied(patiently(t), r.feed(subscription.Deleted("sub_1", "acme", 2, 1))); err != nil {
		t.Fatal(err)
	}
	if state.target.Load() != nil {
		t.Error("the target of a subscription that was deleted is still there")
	}
}

// fragile is a tracer that panics at one delivery.
type fragile struct {
	noop.TracerProvider
	at string
}

func (f fragile) Tracer(string, ...trace.TracerOption) trace.Tracer { return fragileTracer{at: f.at} }

type fragileTracer struct {
	noop.Tracer
	at string
}

func (f fragileTracer) Start(ctx context.Context, _ string, o ...trace.SpanStartOption) (context.Context, trace.Span) {
	config := trace.NewSpanStartConfig(o...)
	for _, a := range config.Attributes() {
		if a.Value.AsString() == f.at {
			panic("planted-secret")
		}
	}
	return ctx, trace.SpanFromContext(ctx)
}

// recording is telemetry whose spans and logs go to the test.
func recording(t *testing.T, tracer trace.TracerProvider, logs *bytes.Buffer) *telemetry.Telemetry {
	t.Helper()
	tele, err := telemetry.New(telemetry.Config{
		LogLevel: "debug", LogFormat: "json", OTLPEndpoint: "127.0.0.1:1", OTLPInsecure: true, TraceRatio: 1, LogOutput: zapcore.Lock(zapcore.AddSync(logs)),
	}, "dispatcher", "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = tele.Shutdown(ctx)
	})
	tele.Tracer = tracer
	return tele
}

// Promise 5: a record that makes our own code panic is a dead letter. It stops neither the process nor what is behind it.
func TestAPanicIsADeadLetter(t *testing.T) {
	hook := receiver(t, nil)
	r := newRig(t, nil)
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	bad := r.delivery("sub_1", nil)
	r.produce(r.record(r.delivery("sub_1", nil)), r.record(bad), r.record(r.delivery("sub_1", nil)))
	var logs bytes.Buffer
	run := r.run(Deps{Telemetry: recording(t, fragile{at: bad.ID}, &logs), Codec: event.NewCodec(r.registry), Box: testBox(t), Version: "test"})
	waitFor(t, hook, 2)
	dead := decoded[event.DeadLetter](r, r.read(topic.DeadLetters), 1)[0]
	if dead.Reason != reasonInternal || dead.DeliveryID != bad.ID || len(dead.OriginalValue) == 0 || dead.SubscriptionID != "sub_1" || dead.Detail == "" {
		t.Errorf("dead letter: %+v", dead)
	}
	r.done()
	for _, a := range decoded[event.Attempt](r, r.read(topic.Attempts), 3) {
		if a.DeliveryID == bad.ID && (a.Outcome != outcomeDead || a.Reason != reasonInternal || a.Attempt != 0) {
			t.Errorf("attempt: %+v", a)
		}
	}
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(logs.String(), "planted-secret") || !strings.Contains(logs.String(), "TestAPanicIsADeadLetter") && !strings.Contains(logs.String(), "fragile") {
		t.Errorf("the log doesn't say where it happened, or says too much: %s", logs.String())
	}
	if hook.Total() != 2 {
		t.Errorf("%d requests", hook.Total())
	}
}

// Promise 6, S1-08, S3-14: no secret is in a log, a trace or a record, whatever the auth, with an endpoint that answers with
// what it was sent, and one that nobody answers at.
func TestNoSecretIsLeftAnywhere(t *testing.T) {
	const planted = "planted-secret"
	tokens := hooktest.StartTokens(t, hooktest.TokensOptions{ClientID: "client", ClientSecret: planted})
	hook := receiver(t, func(q *hooktest.Request) hooktest.Answer {
		return hooktest.Answer{Status: 500, Body: fmt.Sprint(q.Header, q.Raw), Header: map[string]string{"X-Echo": q.Header.Get("authorization") + q.Header.Get("x-api-key")}}
	})
	closed := hooktest.New(hooktest.Options{})
	closed.Close()
	authority := hooktest.NewAuthority(t)
	certificate, key := authority.Client("sub_mtls")
	hidden := subscription.NewHidden(planted)
	r := newRig(t, nil)
	logs := []*topicLog{r.read(topic.Attempts), r.read(topic.DeadLetters), r.read(topic.Slow), r.read(topic.Subscriptions), r.read(topic.Lane("standard"))}
	for _, d := range r.cfg.RetrySchedule {
		logs = append(logs, r.read(topic.RetryTier(d)))
	}
	var ids []string
	for name, auth := range map[string]subscription.Auth{
		"none": {Type: subscription.AuthNone}, "bearer": {Type: subscription.AuthBearer, Token: hidden},
		"basic":  {Type: subscription.AuthBasic, Username: "user", Password: hidden},
		"apikey": {Type: subscription.AuthAPIKey, Header: "x-api-key", Value: hidden},
		"oauth2": {Type: subscription.AuthOAuth2, TokenURL: tokens.URL(), ClientID: "client", ClientSecret: hidden},
		"untold": {Type: subscription.AuthOAuth2, TokenURL: closed.URL() + "/token?key=" + planted, ClientID: "client", ClientSecret: hidden},
		"mtls":   {Type: subscription.AuthMTLS, Certificate: certificate, PrivateKey: subscription.NewHidden(key)},
	} {
		for where, url := range map[string]string{"echo": hook.URL(), "closed": closed.URL()} {
			id := "sub_" + name + "_" + where
			ids = append(ids, id)
			r.feed(subscribed(t, id, url, func(s *subscription.Subscription) { s.Auth = auth }))
		}
	}
	var out bytes.Buffer
	spans := tracetest.NewInMemoryExporter()
	run := r.run(Deps{
		Telemetry: recording(t, sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)), &out), Codec: event.NewCodec(r.registry), Box: testBox(t), Version: "test",
	})
	for _, id := range ids {
		r.deliver(id, 1, nil)
	}
	logs[1].wait(len(ids)) // all are exhausted
	r.done()
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{"the log": out.String(), "the traces": fmt.Sprintf("%+v", spans.GetSpans())}
	for _, l := range logs {
		for _, rec := range l.records() {
			texts[rec.Topic] += string(rec.Key) + string(rec.Value)
			for _, h := range rec.Headers {
				texts[rec.Topic] += string(h.Value)
			}
		}
	}
	if len(spans.GetSpans()) < 3*len(ids) || !strings.Contains(texts["the log"], "sub_untold_echo") {
		t.Errorf("%d spans, %d bytes of log", len(spans.GetSpans()), out.Len())
	}
	secrets := append(tokens.Issued(), planted, "dXNlcjpwbGFudGVkLXNlY3JldA==", strings.TrimPrefix(testSecret, "whsec_"), strings.Split(key, "\n")[1])
	for where, text := range texts {
		for _, s := range secrets {
			// Where a token is asked for stands in the subscription, and is no secret at rest.
			if strings.Contains(strings.ReplaceAll(text, "/token?key="+planted, ""), s) {
				t.Errorf("%s holds %s", where, s)
			}
		}
	}
	if hook.Total() == 0 || len(tokens.Issued()) == 0 {
		t.Errorf("%d requests, %d tokens", hook.Total(), len(tokens.Issued()))
	}
}
