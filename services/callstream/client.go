package callstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/problem"
)

// defaultAPI is where `callstream up` serves the API unless told otherwise.
const defaultAPI = "http://127.0.0.1:8080"

// apiClient talks to the HTTP API for one caller.
type apiClient struct {
	// base is the API's address, "http://host:port".
	base string
	// key is the API key; empty when authentication is off.
	key string
	// tenant is sent as X-Tenant, which chooses the tenant while authentication is off. Empty sends none.
	tenant string
	// http sends the requests.
	http *http.Client
	// agent is the User-Agent header.
	agent string
}

// apiFlags are the flags of every command that talks to the API.
type apiFlags struct {
	url, key, tenant string
}

func (f *apiFlags) addTo(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&f.url, "api", "", "address of the API (CALLSTREAM_API_URL; default "+defaultAPI+")")
	cmd.PersistentFlags().StringVar(&f.key, "key", "", "API key, cs_… (better given as CALLSTREAM_API_KEY: other users of this machine see arguments)")
	cmd.PersistentFlags().StringVar(&f.tenant, "tenant", "", "tenant to act for while authentication is off (sent as X-Tenant)")
}

// client makes the apiClient that the flags and the environment describe.
func (f *apiFlags) client(cmd *cobra.Command) (*apiClient, error) {
	base := firstOf(f.url, os.Getenv("CALLSTREAM_API_URL"), defaultAPI)
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("the API's address %q is not a URL such as %s", base, defaultAPI)
	}
	if f.tenant != "" && !auth.ValidTenant(f.tenant) {
		return nil, fmt.Errorf("--tenant %q: a tenant is up to 64 letters, digits, '.', '_' and '-'", f.tenant)
	}
	return &apiClient{
		base: strings.TrimRight(base, "/"), key: firstOf(f.key, os.Getenv("CALLSTREAM_API_KEY")), tenant: f.tenant,
		http: &http.Client{Timeout: 60 * time.Second}, agent: "callstream-cli/" + cmd.Root().Version,
	}, nil
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// errUnreachable says that no answer came: nothing listens there, or the connection broke.
var errUnreachable = errors.New("the API does not answer")

// maxAnswer bounds the part of an answer that is read.
const maxAnswer = 32 << 20

// do sends a request and decodes the 2xx answer into out, unless that is nil. in is the body: a json.RawMessage is sent
// as it is, nil sends none. Any other status comes back as a *problem.Problem.
func (c *apiClient) do(ctx context.Context, method, path string, in, out any, header http.Header) error {
	var body io.Reader
	if in != nil {
		raw, ok := in.(json.RawMessage)
		if !ok {
			var err error
			if raw, err = json.Marshal(in); err != nil {
				return fmt.Errorf("encode the request: %w", err)
			}
		}
		body = bytes.NewReader(raw)
	}
	req, err := c.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
		if method == http.MethodPatch {
			req.Header.Set("Content-Type", "application/merge-patch+json")
		}
	}
	for name, values := range header {
		req.Header[name] = values
	}
	res, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return c.unreachable(err)
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return answerProblem(res, raw)
	}
	if out == nil || len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s answered something else than the API would (is %s the right address?): %w", path, c.base, err)
	}
	return nil
}

func (c *apiClient) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	req.Header.Set("User-Agent", c.agent)
	req.Header.Set("Accept", "application/json, "+problem.ContentType)
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	if c.tenant != "" {
		req.Header.Set(auth.TenantHeader, c.tenant)
	}
	return req, nil
}

// unreachable turns a transport error into one that says what to do.
func (c *apiClient) unreachable(err error) error {
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w at %s (%w); start it with `callstream up`, or give its address with --api or CALLSTREAM_API_URL", errUnreachable, c.base, op.Err)
	}
	return fmt.Errorf("%w at %s: %w", errUnreachable, c.base, err)
}

// answerProblem reads a problem document, or makes one of an answer that isn't any.
func answerProblem(res *http.Response, raw []byte) *problem.Problem {
	p := &problem.Problem{}
	if err := json.Unmarshal(raw, p); err != nil || p.Status == 0 {
		text := strings.TrimSpace(string(raw))
		if len(text) > 300 {
			text = text[:300] + "…"
		}
		p = problem.New(res.StatusCode, text)
	}
	p.RetryAfter = retryAfter(res.Header, time.Now)
	return p
}

// retryAfter reads the header Retry-After, in seconds or as a date. 0 means that there is none.
func retryAfter(h http.Header, now func() time.Time) time.Duration {
	v := h.Get("Retry-After")
	if v == "" {
		return 0
	}
	if d, err := time.ParseDuration(v + "s"); err == nil && d > 0 {
		return d
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, t.Sub(now()))
	}
	return 0
}

// explain writes an error for a person: a problem document with every fault and its place on a line of its own.
func explain(err error) error {
	var p *problem.Problem
	if !errors.As(err, &p) {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s", p.Status, firstOf(p.Title, http.StatusText(p.Status)))
	if p.Detail != "" {
		b.WriteString(": " + printable(p.Detail))
	}
	for _, f := range p.Errors {
		b.WriteString("\n  ")
		if f.Line > 0 {
			fmt.Fprintf(&b, "line %d, ", f.Line)
		}
		if f.Pointer != "" {
			b.WriteString(f.Pointer + ": ")
		}
		b.WriteString(strings.ReplaceAll(printable(f.Detail), "\n", "\n    "))
	}
	switch p.Status {
	case http.StatusUnauthorized:
		b.WriteString("\n  Give an API key with --key or CALLSTREAM_API_KEY; `callstream keys create --admin --tenant T` makes the first one.")
	case http.StatusPreconditionFailed:
		b.WriteString("\n  It has changed since you read it: read it again, or leave --if-version out.")
	}
	return &explained{text: b.String(), err: err}
}

// explained is an error with a text for people that keeps what it stands for.
type explained struct {
	text string
	err  error
}

func (e *explained) Error() string { return e.text }

func (e *explained) Unwrap() error { return e.err }
