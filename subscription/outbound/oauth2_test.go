package outbound

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/subscription"
)

// clock is a clock that the test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// until waits for a condition that another goroutine brings about.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited for: %s", what)
		}
	}
}

// grant is a token endpoint, an endpoint that takes its tokens, and a Target that must get them.
func grant(t *testing.T, o hooktest.TokensOptions) (*hooktest.Tokens, *hooktest.Receiver, *Target, *clock) {
	t.Helper()
	o.ClientID, o.ClientSecret = "client:1", "planted secret&+"
	tokens := hooktest.StartTokens(t, o)
	hook := hooktest.Start(t, hooktest.Options{Secrets: []string{testSecret}, Answer: tokens.Check})
	c := &clock{now: time.Now()}
	target := testTarget(t, testSender(t, Options{Now: c.Now}), hook.URL(), func(s *subscription.Subscription) {
		s.Auth = subscription.Auth{
			Type: subscription.AuthOAuth2, TokenURL: tokens.URL(), ClientID: o.ClientID, ClientSecret: subscription.NewHidden(o.ClientSecret),
			Scopes: []string{"calls", "write"},
		}
	})
	return tokens, hook, target, c
}

// delivers sends a delivery that must be taken.
func delivers(t *testing.T, target *Target) {
	t.Helper()
	if a := target.Send(t.Context(), testDelivery(), Attempt{Number: 1}); a.Err != nil || a.Status != http.StatusOK {
		t.Fatalf("answered %d: %v", a.Status, a.Err)
	}
}

// P-15: one token serves until shortly before its end, is then renewed without anybody waiting, and is asked for once
// however many wait for it. The client authenticates as the token endpoint wants.
func TestTokensAreKeptAndRenewed(t *testing.T) {
	for name, inBody := range map[string]bool{"in the header": false, "in the body": true} {
		t.Run(name, func(t *testing.T) {
			tokens, hook, target, c := grant(t, hooktest.TokensOptions{InBody: inBody, Lifetime: time.Hour})
			var group sync.WaitGroup
			for range 20 {
				group.Go(func() {
					if a := target.Send(t.Context(), testDelivery(), Attempt{Number: 1}); a.Err != nil || a.Status != 200 {
						t.Errorf("answered %d: %v", a.Status, a.Err)
					}
				})
			}
			group.Wait()
			if n := tokens.Asked(); n != 1 {
				t.Errorf("asked %d times", n)
			}
			if got := strings.Join(tokens.Scopes(), " "); got != "calls write" {
				t.Errorf("asked for %q", got)
			}
			c.advance(58 * time.Minute)
			delivers(t, target)
			if n := tokens.Asked(); n != 1 {
				t.Errorf("asked %d times before it was time", n)
			}
			c.advance(61 * time.Second)
			delivers(t, target) // with the old one
			until(t, "it is renewed", func() bool { return tokens.Asked() == 2 })
			until(t, "the new one is sent", func() bool {
				delivers(t, target)
				all := hook.Requests()
				return all[len(all)-1].Header.Get("authorization") == "Bearer access-token-2"
			})
			if got := hook.Requests()[21].Header.Get("authorization"); got != "Bearer access-token-1" {
				t.Errorf("while it was renewed: %s", got)
			}
			c.advance(2 * time.Hour)
			delivers(t, target) // waits for a third
			if n := tokens.Asked(); n != 3 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

// P-15: a token that the endpoint refuses is replaced for the next attempt. Where it refuses one after the other, the
// token endpoint is not asked again for each.
func TestARefusedTokenIsReplaced(t *testing.T) {
	tokens, hook, target, c := grant(t, hooktest.TokensOptions{Lifetime: time.Hour})
	delivers(t, target)
	tokens.Revoke()
	if a := target.Send(t.Context(), testDelivery(), Attempt{Number: 1}); a.Status != http.StatusUnauthorized || !a.TokenRefused {
		t.Errorf("answered %d, refused %v", a.Status, a.TokenRefused)
	}
	delivers(t, target)
	if n := tokens.Asked(); n != 2 {
		t.Errorf("asked %d times", n)
	}
	hook.SetAnswer(hooktest.Always(hooktest.Answer{Status: http.StatusUnauthorized}))
	refused := 0
	for range 50 {
		if a := target.Send(t.Context(), testDelivery(), Attempt{Number: 1}); a.TokenRefused {
			refused++
		} else if egress.ClassOf(a.Err) != ClassOAuth2 {
			t.Fatalf("answered %d: %v", a.Status, a.Err)
		}
	}
	if n := tokens.Asked(); refused != 2 || n != 3 {
		t.Errorf("%d were refused, %d asked for", refused, n)
	}
	hook.SetAnswer(tokens.Check)
	c.advance(time.Minute)
	delivers(t, target)
}

// P-15: without a token nothing is sent, the class says so, and the token endpoint gets time to recover. Nothing of what was
// sent to it or answered by it is in the error.
func TestWithoutATokenNothingIsSent(t *testing.T) {
	const secret = "planted secret&+"
	for name, broken := range map[string]hooktest.Answer{
		"it fails":            {Status: 503, Body: "the password is " + secret},
		"it refuses":          {Status: 400, Body: `{"error":"invalid_scope","error_description":"` + secret + `"}`},
		"it says another":     {Status: 403, Body: `{"error":"` + secret + `"}`},
		"it redirects":        {Status: 302, Body: secret},
		"no JSON":             {Status: 200, Body: secret},
		"no token":            {Status: 200, Body: `{"token":"` + secret + `"}`},
		"another type":        {Status: 200, Body: `{"access_token":"` + secret + `","token_type":"mac"}`},
		"no header can":       {Status: 200, Body: `{"access_token":"a\nb` + secret + `","token_type":"bearer"}`},
		"no lifetime":         {Status: 200, Body: `{"access_token":"abc","expires_in":-1}`},
		"far too long":        {Status: 200, Body: `{"access_token":"` + strings.Repeat("a", 100_000) + `"}`},
		"longer than a token": {Status: 200, Body: `{"access_token":"` + strings.Repeat("a", 20_000) + `"}`},
	} {
		t.Run(name, func(t *testing.T) {
			var fails sync.Map
			tokens, hook, target, c := grant(t, hooktest.TokensOptions{Answer: func(int) hooktest.Answer {
				if _, mended := fails.Load("mended"); mended {
					return hooktest.Answer{}
				}
				return broken
			}})
			for range 20 {
				a := target.Send(t.Context(), testDelivery(), Attempt{Number: 1})
				if a.Status != 0 || egress.ClassOf(a.Err) != ClassOAuth2 {
					t.Fatalf("answered %d: %v", a.Status, a.Err)
				}
				for _, text := range []string{a.Err.Error(), a.ErrorText(), fmt.Sprint(a.RequestHeader()), a.URL} {
					if strings.Contains(text, secret) || strings.Contains(text, "planted") || strings.Contains(text, "aaaa") || strings.Contains(text, tokens.URL()) {
						t.Errorf("recorded: %s", text)
					}
				}
			}
			if n := tokens.Asked(); n > 2 {
				t.Errorf("asked %d times for 20 deliveries", n)
			}
			if n := hook.Total(); n != 0 {
				t.Errorf("%d deliveries went out", n)
			}
			fails.Store("mended", true)
			c.advance(time.Minute)
			delivers(t, target)
		})
	}
}

// P-15: what a token endpoint says that doesn't speak HTTP is not repeated either.
func TestAnErrorOfTheTokenEndpointRepeatsNothing(t *testing.T) {
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = conn.Write([]byte("planted-secret planted-secret planted-secret\r\n\r\n"))
			_ = conn.Close()
		}
	}()
	target := testTarget(t, testSender(t, Options{}), "https://example.com", func(s *subscription.Subscription) {
		s.Auth = subscription.Auth{
			Type: subscription.AuthOAuth2, TokenURL: "http://" + listener.Addr().String() + "?planted-secret", ClientID: "client", ClientSecret: subscription.NewHidden("secret"),
		}
	})
	a := target.Send(t.Context(), testDelivery(), Attempt{Number: 1})
	if text := a.Err.Error(); egress.ClassOf(a.Err) != ClassOAuth2 || strings.Contains(text, "planted") {
		t.Errorf("ended as %s", text)
	}
}

// A token endpoint that hangs holds an attempt no longer than the subscription's timeout.
func TestAHangingTokenEndpointIsNotWaitedForLonger(t *testing.T) {
	asked := make(chan struct{}, 1)
	answer := make(chan struct{})
	tokens := hooktest.StartTokens(t, hooktest.TokensOptions{ClientID: "client", ClientSecret: "secret", Answer: func(int) hooktest.Answer {
		asked <- struct{}{}
		<-answer
		return hooktest.Answer{}
	}})
	hook := hooktest.Start(t, hooktest.Options{Answer: tokens.Check})
	target := testTarget(t, testSender(t, Options{}), hook.URL(), func(s *subscription.Subscription) {
		s.Request.Timeout = subscription.Duration(50 * time.Millisecond)
		s.Auth = subscription.Auth{Type: subscription.AuthOAuth2, TokenURL: tokens.URL(), ClientID: "client", ClientSecret: subscription.NewHidden("secret")}
	})
	a := target.Send(t.Context(), testDelivery(), Attempt{Number: 1})
	<-asked
	if egress.ClassOf(a.Err) != ClassOAuth2 {
		t.Errorf("ended as %v", a.Err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if a := target.Send(gone, testDelivery(), Attempt{Number: 1}); egress.ClassOf(a.Err) != egress.ClassCanceled {
		t.Errorf("given up, it ended as %v", a.Err)
	}
	close(answer)
	until(t, "the token that nobody waits for serves", func() bool {
		return target.Send(t.Context(), testDelivery(), Attempt{Number: 1}).Status == 200
	})
	if n := tokens.Asked(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// What a slow token endpoint leaves of the time is too little for the endpoint, which would be blamed for it: the attempt
// is the token's failure, and the next one has the token.
func TestATokenThatComesTooLateServesTheNextAttempt(t *testing.T) {
	var advance func()
	tokens, hook, target, c := grant(t, hooktest.TokensOptions{Lifetime: time.Hour, Answer: func(int) hooktest.Answer {
		advance()
		return hooktest.Answer{}
	}})
	advance = func() { c.advance(subscription.DefaultTimeout - 100*time.Millisecond) }
	a := target.Send(t.Context(), testDelivery(), Attempt{Number: 1})
	if egress.ClassOf(a.Err) != ClassOAuth2 || a.Took < 9*time.Second {
		t.Errorf("ended as %v after %s", a.Err, a.Took)
	}
	if n := len(hook.Requests()); n != 0 {
		t.Errorf("%d requests were made", n)
	}
	delivers(t, target)
	if n := tokens.Asked(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestTokenLifetimes(t *testing.T) {
	now := time.Now()
	for body, want := range map[string]time.Duration{
		`{"access_token":"a"}`:                                 time.Hour - 10*time.Second,
		`{"access_token":"a","expires_in":3600}`:               time.Hour - 10*time.Second,
		`{"access_token":"a","expires_in":"3600"}`:             time.Hour - 10*time.Second,
		`{"access_token":"a","expires_in":10}`:                 9 * time.Second,
		`{"access_token":"a","expires_in":1e300}`:              24*time.Hour - 10*time.Second,
		`{"access_token":"a","expires_in":599.5,"scope":null}`: 589*time.Second + 500*time.Millisecond,
	} {
		got, err := readToken([]byte(body), now)
		if err != nil || got.expires.Sub(now) != want || !got.renew.Before(got.expires) || !got.renew.After(now) {
			t.Errorf("%s: until %s, renewed after %s, %v", body, got.expires.Sub(now), got.renew.Sub(now), err)
		}
	}
}
