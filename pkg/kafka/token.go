package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// errToken means that no OAUTHBEARER token could be had.
var errToken = errors.New("no token for OAUTHBEARER")

// tokenSource gets OAUTHBEARER tokens from a file or by the client credentials grant (RFC 6749, 4.4). A token is kept
// until shortly before it expires, since every connection of every client asks for one.
type tokenSource struct {
	config Config

	mu      sync.Mutex
	cached  string
	expires time.Time
}

func (s *tokenSource) token(ctx context.Context) (string, error) {
	if s.config.SASLTokenFile != "" {
		b, err := os.ReadFile(s.config.SASLTokenFile)
		if err != nil {
			return "", fmt.Errorf("read CALLSTREAM_KAFKA_SASL_TOKEN_FILE: %w", err)
		}
		return strings.TrimSpace(string(b)), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cached != "" && time.Until(s.expires) > 30*time.Second {
		return s.cached, nil
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	if len(s.config.SASLScopes) > 0 {
		form.Set("scope", strings.Join(s.config.SASLScopes, " "))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.config.SASLTokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("ask for a Kafka token: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.SetBasicAuth(url.QueryEscape(s.config.SASLClientID), url.QueryEscape(s.config.SASLClientSecret))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask for a Kafka token: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%w: the token endpoint answered %d", errToken, resp.StatusCode)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil {
		return "", fmt.Errorf("%w: the token endpoint's answer: %w", errToken, err)
	}
	if answer.AccessToken == "" {
		return "", fmt.Errorf("%w: the token endpoint's answer has no access_token", errToken)
	}
	s.cached, s.expires = answer.AccessToken, time.Now().Add(time.Duration(answer.ExpiresIn)*time.Second)
	return s.cached, nil
}
