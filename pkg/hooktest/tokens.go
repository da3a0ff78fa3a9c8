package hooktest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"time"
)

// TokensOptions say how a token endpoint works.
type TokensOptions struct {
	// ClientID and ClientSecret are the client's that gets tokens.
	ClientID, ClientSecret string
	// InBody takes the secret in the body alone, not in the Authorization header.
	InBody bool
	// Lifetime is what expires_in says; zero leaves it out.
	Lifetime time.Duration
	// Answer, where it is not nil, is asked before a token is issued: any status but 0 is the answer, with its body. n counts the
	// requests of the client from 1.
	Answer func(n int) Answer
}

// Tokens is an OAuth2 token endpoint for client credentials (RFC 6749, section 4.4) on a free loopback port.
type Tokens struct {
	opts   TokensOptions
	server *httptest.Server

	mu     sync.Mutex
	asked  int
	scopes []string
	valid  map[string]bool
	issued []string
}

// StartTokens starts a token endpoint that closes when the test ends.
func StartTokens(tb TB, o TokensOptions) *Tokens {
	tb.Helper()
	t := &Tokens{opts: o, valid: map[string]bool{}}
	t.server = httptest.NewServer(t)
	tb.Cleanup(t.server.Close)
	return t
}

// URL is the token endpoint's.
func (t *Tokens) URL() string { return t.server.URL + "/token" }

// Asked is how often the client asked, in the way that is taken.
func (t *Tokens) Asked() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.asked
}

// Issued are the tokens that were issued, in order.
func (t *Tokens) Issued() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.issued...)
}

// Scopes are what was asked for last.
func (t *Tokens) Scopes() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.scopes
}

// Revoke makes all tokens so far invalid.
func (t *Tokens) Revoke() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.valid)
}

// Check is an Answer for a Receiver: 401 for a request without a valid token.
func (t *Tokens) Check(r *Request) Answer {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.valid[token] {
		return Answer{Status: http.StatusUnauthorized}
	}
	return Answer{}
}

// ServeHTTP takes a request for a token.
func (t *Tokens) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if err := req.ParseForm(); err != nil || req.Method != http.MethodPost || req.PostForm.Get("grant_type") != "client_credentials" {
		refuse(w, http.StatusBadRequest, "unsupported_grant_type")
		return
	}
	id, secret := req.PostForm.Get("client_id"), req.PostForm.Get("client_secret")
	if user, password, ok := req.BasicAuth(); ok && !t.opts.InBody {
		// Both are form-encoded first (RFC 6749, section 2.3.1).
		id, _ = url.QueryUnescape(user)
		secret, _ = url.QueryUnescape(password)
	}
	if id != t.opts.ClientID || secret != t.opts.ClientSecret {
		refuse(w, http.StatusUnauthorized, "invalid_client")
		return
	}
	t.mu.Lock()
	t.asked++
	n := t.asked
	t.scopes = strings.Fields(req.PostForm.Get("scope"))
	t.mu.Unlock()
	if t.opts.Answer != nil {
		if a := t.opts.Answer(n); a.Status != 0 {
			w.WriteHeader(a.Status)
			_, _ = w.Write([]byte(a.Body))
			return
		}
	}
	answer := map[string]any{"access_token": fmt.Sprintf("access-token-%d", n), "token_type": "bearer"}
	if t.opts.Lifetime > 0 {
		answer["expires_in"] = int(t.opts.Lifetime / time.Second)
	}
	t.mu.Lock()
	t.valid[answer["access_token"].(string)] = true
	t.issued = append(t.issued, answer["access_token"].(string))
	t.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": code})
}
