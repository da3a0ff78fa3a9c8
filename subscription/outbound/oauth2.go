package outbound

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/subscription"
)

// ClassOAuth2 is the class of an attempt that was never made, because there was no access token to make it with. It is
// always worth another attempt: nothing has been said about the delivery.
const ClassOAuth2 egress.Class = "oauth2"

const (
	// tokenTimeout bounds one request for a token.
	tokenTimeout = 10 * time.Second
	// unsaidLifetime is how long a token is used whose answer doesn't say (RFC 6749, section 5.1, leaves it to us), and
	// longestLifetime how long one is in any case.
	unsaidLifetime  = time.Hour
	longestLifetime = 24 * time.Hour
	// maxTokenAnswer bounds an answer of a token endpoint, maxToken the token in it; in bytes.
	maxTokenAnswer = 64 << 10
	maxToken       = 16 << 10
)

var errTokenRefused = errors.New("the endpoint refused the last access token, and a new one is not asked for yet")

// tokens gets the access token of one subscription (client credentials, RFC 6749, section 4.4), keeps it, and renews it
// before it expires, with one request at a time however many wait for it.
type tokens struct {
	sender *Sender
	grant  subscription.OAuth2
	url    *url.URL

	mu       sync.Mutex
	current  token
	fetch    *fetch // under way
	inBody   bool   // the endpoint wants the client's secret in the body
	failures int    // fetches that failed and tokens that were refused, since an endpoint took one
	after    time.Time
	failure  error // why there is no fetch before after
}

// token is an access token. It is used until expires, and another is asked for from renew on.
type token struct {
	value          string
	renew, expires time.Time
}

// fetch is one request for a token, which many may wait for.
type fetch struct {
	done  chan struct{}
	value string
	err   error
}

func newTokens(s *Sender, grant subscription.OAuth2) (*tokens, error) {
	u, err := url.Parse(grant.TokenURL)
	if err != nil {
		return nil, errors.New("the token URL does not parse") // the error of url.Parse repeats it
	}
	return &tokens{sender: s, grant: grant, url: u}, nil
}

// get returns a token, or waits at most that long for one. The error is an *egress.Error of ClassOAuth2, unless ctx
// ended: then it is of egress.ClassCanceled or ClassTimeout.
func (t *tokens) get(ctx context.Context, timeout time.Duration) (string, error) {
	now := t.sender.opts.Now()
	t.mu.Lock()
	if t.current.value != "" && now.Before(t.current.expires) {
		value := t.current.value
		if !now.Before(t.current.renew) {
			t.start(now)
		}
		t.mu.Unlock()
		return value, nil
	}
	f, failure := t.start(now), t.failure
	t.mu.Unlock()
	if f == nil {
		return "", tokenError(failure)
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-f.done:
		if f.err != nil {
			return "", tokenError(f.err)
		}
		return f.value, nil
	case <-timer.C:
		return "", tokenError(errors.New("the token endpoint did not answer in time"))
	case <-ctx.Done():
		return "", &egress.Error{Class: egress.ClassOf(ctx.Err()), Op: "token", Err: ctx.Err()}
	}
}

func tokenError(err error) error { return &egress.Error{Class: ClassOAuth2, Op: "token", Err: err} }

// start returns the fetch that is under way, or a new one; nil where it is too early for that. The lock is held.
func (t *tokens) start(now time.Time) *fetch {
	if t.fetch != nil {
		return t.fetch
	}
	if now.Before(t.after) {
		return nil
	}
	f := &fetch{done: make(chan struct{})}
	inBody := t.inBody
	// It is nobody's request: the one that began it may be given up while others wait for the token.
	if !t.sender.begin(func(ctx context.Context) {
		defer close(f.done)
		ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
		defer cancel()
		got, inBody, err := t.request(ctx, now, inBody)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.fetch = nil
		if err != nil {
			f.err = err
			t.failed(err)
			return
		}
		f.value, t.current, t.inBody = got.value, got, inBody
	}) {
		t.failure = context.Canceled
		return nil
	}
	t.fetch = f
	return f
}

// failed puts the next fetch off. The lock is held.
func (t *tokens) failed(err error) {
	const first, most = 100 * time.Millisecond, 30 * time.Second
	t.failure = err
	t.after = t.sender.opts.Now().Add(min(first<<min(t.failures, 16), most))
	t.failures++
}

// refuse forgets a token that the endpoint did not take. A first one is replaced at once, since it may have been
// revoked; where one after the other is refused, the token endpoint is not asked for ever more.
func (t *tokens) refuse(value string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current.value != value {
		return
	}
	t.current = token{}
	if t.failures == 0 {
		t.failures = 1
		return
	}
	t.failed(errTokenRefused)
}

// accept says that the endpoint took a token.
func (t *tokens) accept() {
	t.mu.Lock()
	t.failures = 0
	t.mu.Unlock()
}

// request asks for a token. The client's secret goes into the Authorization header, which every token endpoint must
// support (RFC 6749, section 2.3.1); to one that doesn't know the client then, in the body, and from then on always so.
// No error repeats what was sent or answered.
func (t *tokens) request(ctx context.Context, now time.Time, inBody bool) (token, bool, error) {
	got, status, code, err := t.ask(ctx, now, inBody)
	if err != nil && !inBody && (status == http.StatusUnauthorized || status == http.StatusBadRequest) &&
		slices.Contains([]string{"", "invalid_client", "invalid_request"}, code) {
		if other, _, _, otherErr := t.ask(ctx, now, true); otherErr == nil {
			return other, true, nil
		}
	}
	return got, inBody, err
}

// ask makes one request to the token endpoint. Where it answered and refused, the status and the code of its error, as far as
// it is one of the standard's, are returned as well.
func (t *tokens) ask(ctx context.Context, now time.Time, inBody bool) (got token, status int, code string, err error) {
	form := url.Values{"grant_type": {"client_credentials"}}
	if len(t.grant.Scopes) > 0 {
		form.Set("scope", strings.Join(t.grant.Scopes, " "))
	}
	header := http.Header{
		"Content-Type": {"application/x-www-form-urlencoded"}, "Accept": {"application/json"}, "User-Agent": {t.sender.userAgent},
	}
	if inBody {
		form.Set("client_id", t.grant.ClientID)
		form.Set("client_secret", t.grant.ClientSecret)
	} else {
		pair := url.QueryEscape(t.grant.ClientID) + ":" + url.QueryEscape(t.grant.ClientSecret)
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(pair)))
	}
	answer, err := t.sender.client.Exchange(ctx, &egress.Request{
		Method: http.MethodPost, URL: t.url, Header: header, Body: []byte(form.Encode()),
	}, tokenTimeout, make([]byte, maxTokenAnswer))
	if err != nil {
		// Its text may repeat what the endpoint said.
		return token{}, 0, "", fmt.Errorf("the request to the token endpoint failed (%s)", egress.ClassOf(err))
	}
	if answer.Err != nil || answer.Truncated {
		return token{}, answer.Status, "", fmt.Errorf("the token endpoint's answer (%d) could not be read whole", answer.Status)
	}
	if answer.Status < 200 || answer.Status > 299 {
		code := errorCode(answer.Body)
		return token{}, answer.Status, code, errors.New(strings.TrimSpace(fmt.Sprintf("the token endpoint answered %d %s", answer.Status, code)))
	}
	got, err = readToken(answer.Body, now)
	return got, answer.Status, "", err
}

// errorCode is the code of a refusal (RFC 6749, section 5.2), "" for any other text.
func errorCode(body []byte) string {
	var refusal struct {
		Error string `json:"error"`
	}
	known := []string{"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope"}
	if json.Unmarshal(body, &refusal) != nil || !slices.Contains(known, refusal.Error) {
		return ""
	}
	return refusal.Error
}

// readToken reads the answer of a token endpoint that was asked at now.
func readToken(body []byte, now time.Time) (token, error) {
	var answer struct {
		AccessToken string      `json:"access_token"`
		TokenType   string      `json:"token_type"`
		ExpiresIn   json.Number `json:"expires_in"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return token{}, errors.New("the token endpoint's answer is not the JSON of RFC 6749, section 5.1")
	}
	switch {
	case answer.AccessToken == "":
		return token{}, errors.New("the token endpoint's answer has no access_token")
	case !strings.EqualFold(cmp.Or(answer.TokenType, "bearer"), "bearer"):
		return token{}, errors.New("the token endpoint's token is not of the type Bearer")
	case len(answer.AccessToken) > maxToken || strings.ContainsFunc(answer.AccessToken, func(r rune) bool { return r <= ' ' || r > '~' }):
		return token{}, errors.New("the token endpoint's token is too long, or has characters that a header can't carry")
	}
	lifetime := unsaidLifetime
	if answer.ExpiresIn != "" {
		seconds, err := strconv.ParseFloat(answer.ExpiresIn.String(), 64)
		if err != nil || seconds <= 0 {
			return token{}, errors.New("the token endpoint's token has no lifetime")
		}
		lifetime = time.Duration(min(seconds, longestLifetime.Seconds()) * float64(time.Second))
	}
	// It must not expire on the way, and there should be time to get another one without anybody waiting for it.
	expires := now.Add(lifetime - min(lifetime/10, 10*time.Second))
	return token{value: answer.AccessToken, renew: expires.Add(-min(lifetime/5, time.Minute)), expires: expires}, nil
}
