package callstream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/callstream/callstream/pkg/httpserver"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/pkg/webhook"
)

// listenOptions are the flags of `callstream listen`.
type listenOptions struct {
	addr    string
	secrets []string
	status  int
	delay   time.Duration
	quiet   bool
	json    bool

	subscribe []string // event patterns to subscribe the receiver itself to
	filter    string
	url       string // where callstream reaches the receiver
}

func newListenCommand() *cobra.Command {
	var opts listenOptions
	var api apiFlags
	cmd := &cobra.Command{
		Use:   "listen",
		Short: "Receive webhooks here: verify and print each delivery",
		Long: `Run a webhook endpoint on this machine. It passes the handshakes that a new subscription is verified with (challenge and
CloudEvents), checks the signature of each delivery against --secret, prints it, and answers 200. It takes every payload
profile, by POST and GET.

With --subscribe it subscribes itself to these events, checks signatures with the secret that it gets, and removes the
subscription when it ends.`,
		Example: `  callstream listen --subscribe 'call.*,transcript.ready'
  callstream listen --addr :9000 --secret whsec_…     verify what arrives for a subscription that there is
  callstream listen --status 500 --delay 2s           see what happens when an endpoint is slow and failing`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(opts.secrets) == 0 {
				if s := os.Getenv("CALLSTREAM_WEBHOOK_SECRET"); s != "" {
					opts.secrets = strings.Split(s, ",")
				}
			}
			if opts.status < 200 || opts.status > 599 {
				return fmt.Errorf("--status %d: an answer's status is between 200 and 599", opts.status)
			}
			if len(opts.subscribe) == 0 && (opts.filter != "" || opts.url != "") {
				return errors.New("--filter and --url belong to --subscribe: name the events")
			}
			c, err := api.client(cmd)
			if err != nil {
				return err
			}
			r, err := newReceiver(opts, cmd.OutOrStdout(), time.Now)
			if err != nil {
				return err
			}
			return r.run(cmd.Context(), c, cmd.ErrOrStderr())
		},
	}
	api.addTo(cmd)
	flags := cmd.Flags()
	flags.StringSliceVar(&opts.subscribe, "subscribe", nil, "subscribe to these events while it runs: exact types, family.* or *")
	flags.StringVar(&opts.filter, "filter", "", "with --subscribe: CEL over event")
	flags.StringVar(&opts.url, "url", "", "with --subscribe: where callstream reaches this receiver, if not at the address it listens on")
	flags.StringVar(&opts.addr, "addr", "127.0.0.1:9000", "where to listen; :9000 also takes requests from other machines")
	flags.StringSliceVar(&opts.secrets, "secret", nil, "the subscription's signing secret, whsec_…, or its public key, whpk_…; may be repeated (CALLSTREAM_WEBHOOK_SECRET)")
	flags.IntVar(&opts.status, "status", http.StatusOK, "status to answer deliveries with")
	flags.DurationVar(&opts.delay, "delay", 0, "time to take before the answer")
	flags.BoolVarP(&opts.quiet, "quiet", "q", false, "one line a delivery, without the body")
	flags.BoolVar(&opts.json, "json", false, "one JSON object a delivery, for programs")
	return cmd
}

// maxDelivery bounds what is read of a request: renderings are 3 MiB at most.
const maxDelivery = 8 << 20

// receiver is a webhook endpoint that prints what it gets.
type receiver struct {
	opts listenOptions
	// verify is nil while there is no secret to check signatures with.
	verify atomic.Pointer[webhook.Verifier]
	now    func() time.Time

	mu   sync.Mutex
	out  io.Writer
	seen *recentIDs
}

func newReceiver(opts listenOptions, out io.Writer, now func() time.Time) (*receiver, error) {
	r := &receiver{opts: opts, now: now, out: out, seen: newRecentIDs(200_000)}
	if err := r.trust(opts.secrets); err != nil {
		return nil, err
	}
	return r, nil
}

// trust checks signatures with these secrets from now on.
func (r *receiver) trust(secrets []string) error {
	if len(secrets) == 0 {
		return nil
	}
	v, err := webhook.NewVerifier(secrets...)
	if err != nil {
		return err
	}
	r.verify.Store(v)
	return nil
}

// run serves until ctx ends. Hints for a person go to hints.
func (r *receiver) run(ctx context.Context, c *apiClient, hints io.Writer) error {
	server := httpserver.New(httpserver.Config{Addr: r.opts.addr, DrainTimeout: 2 * time.Second}, r)
	bound, err := server.Listen()
	if err != nil {
		return fmt.Errorf("%w; choose another address with --addr", err)
	}
	url := firstOf(r.opts.url, endpointURL(bound))
	fmt.Fprintf(hints, "Listening on %s\n", url)
	group, _ := run.NewGroup(ctx)
	group.Go("listen", server.Run)
	if len(r.opts.subscribe) > 0 {
		group.Go("subscribe", func(ctx context.Context) error { return r.subscribeTo(ctx, c, url, hints) })
		return group.Wait()
	}
	if len(r.opts.secrets) == 0 {
		fmt.Fprintf(hints, "Signatures are not checked: start again with --secret whsec_… once you have one, or with --subscribe '*'.\n")
	}
	fmt.Fprintf(hints, `Next, in another terminal:
  callstream subscriptions create --url %s --events '*'
  callstream simulate --calls 1
Ctrl-C ends it.

`, url)
	return group.Wait()
}

// subscribeTo subscribes the receiver itself, and removes the subscription when ctx ends.
func (r *receiver) subscribeTo(ctx context.Context, c *apiClient, url string, hints io.Writer) error {
	object := map[string]any{"url": url, "events": r.opts.subscribe, "name": "callstream listen"}
	if r.opts.filter != "" {
		object["filter"] = r.opts.filter
	}
	// Not under ctx: a request that is given up may have made the subscription, and nobody would remove it.
	var raw json.RawMessage
	if err := c.do(context.WithoutCancel(ctx), http.MethodPost, subscriptionsPath, object, &raw, nil); err != nil {
		return err
	}
	var s subscriptionView
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := c.do(last, http.MethodDelete, subscriptionPath(s.ID), nil, nil, nil); err != nil {
			fmt.Fprintf(hints, "%s is still there (%v); remove it: callstream subscriptions delete %s\n", s.ID, err, s.ID)
		}
	}()
	if err := r.trust([]string{s.Secret}); err != nil {
		return err
	}
	if s.State == "pending" {
		if _, err := c.verifyNew(ctx, s.ID, raw); err != nil {
			return err
		}
	}
	fmt.Fprintf(hints, `Subscribed as %s to %s, until Ctrl-C. Signatures are checked.
Next, in another terminal:
  callstream simulate --calls 1

`, s.ID, strings.Join(r.opts.subscribe, ", "))
	<-ctx.Done()
	return nil
}

// endpointURL is where something on this machine reaches a listener.
func endpointURL(bound string) string {
	for _, any := range []string{"[::]:", "0.0.0.0:"} {
		if port, ok := strings.CutPrefix(bound, any); ok {
			bound = "127.0.0.1:" + port
		}
	}
	return "http://" + bound + "/"
}

// receipt is one delivery as --json prints it.
type receipt struct {
	Time      time.Time         `json:"time"`
	Method    string            `json:"method"`
	Path      string            `json:"path"`
	WebhookID string            `json:"webhook_id,omitempty"`
	EventID   string            `json:"event_id,omitempty"`
	Type      string            `json:"type,omitempty"`
	CallID    string            `json:"call_id,omitempty"`
	Events    []receivedItem    `json:"events,omitempty"` // of a batch
	Attempt   int               `json:"attempt,omitempty"`
	Repeat    bool              `json:"repeat"`
	Verified  *bool             `json:"verified"` // null without a secret
	Problem   string            `json:"problem,omitempty"`
	Challenge bool              `json:"challenge,omitempty"`
	Handshake bool              `json:"handshake,omitempty"` // the CloudEvents one, by OPTIONS
	Answered  int               `json:"answered"`
	Headers   map[string]string `json:"headers"`
	Bytes     int               `json:"bytes"`
	Body      json.RawMessage   `json:"body,omitempty"` // as it came, or a JSON string if it isn't JSON
}

// receivedItem is one event of a batch.
type receivedItem struct {
	EventID string `json:"event_id,omitempty"`
	Type    string `json:"type,omitempty"`
	CallID  string `json:"call_id,omitempty"`
}

// itemsOf looks at the events of a batch; nil for any other body.
func itemsOf(body []byte) []receivedItem {
	var all []glance
	if first := bytes.TrimLeft(body, " \t\r\n"); len(first) == 0 || first[0] != '[' || json.Unmarshal(body, &all) != nil {
		return nil
	}
	items := make([]receivedItem, len(all))
	for i, g := range all {
		items[i] = receivedItem{EventID: g.ID, Type: g.eventType(), CallID: g.call()}
	}
	return items
}

// glance is what a line about a delivery needs of its body, under the names that the profiles have for it.
type glance struct {
	Type      string `json:"type"`       // standard, cloudevents
	Event     string `json:"event"`      // callback, dialer, platform
	EventType string `json:"event_type"` // push
	ID        string `json:"id"`
	CallID    string `json:"call_id"`
	CallIDs   string `json:"callId"`  // dialer, post-call
	Subject   string `json:"subject"` // cloudevents
	Challenge string `json:"challenge"`
}

func (g *glance) eventType() string { return firstOf(g.Type, g.EventType, g.Event) }

func (g *glance) call() string { return firstOf(g.CallID, g.CallIDs, g.Subject) }

// glanceAt looks at a body, or at the query of a request without one.
func glanceAt(body []byte, query url.Values) (g glance, isJSON bool) {
	if len(body) > 0 {
		err := json.Unmarshal(body, &g)
		return g, err == nil || json.Valid(body)
	}
	first := query.Get
	return glance{Type: first("type"), Event: first("event"), EventType: first("event_type"), ID: first("id"), CallID: first("call_id"), CallIDs: first("callId")}, false
}

// ServeHTTP takes one delivery, or the handshake that verifies a new subscription.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxDelivery))
	if err != nil {
		http.Error(w, "the body could not be read: "+err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	peek, isJSON := glanceAt(body, req.URL.Query())
	header := req.Header.Get
	got := receipt{
		Time: r.now(), Method: req.Method, Path: req.URL.RequestURI(), WebhookID: header("webhook-id"),
		EventID: firstOf(header("x-event-id"), header("ce-id"), peek.ID), Type: firstOf(header("ce-type"), peek.eventType()),
		CallID: firstOf(header("ce-subject"), peek.call()), Events: itemsOf(body), Answered: r.opts.status,
		Headers: map[string]string{}, Bytes: len(body),
	}
	got.Attempt, _ = strconv.Atoi(header("webhook-attempt")) // 0 when absent
	for name := range req.Header {
		got.Headers[strings.ToLower(name)] = header(name)
	}
	switch {
	case isJSON:
		got.Body = body
	case len(body) > 0:
		got.Body, _ = json.Marshal(string(body)) // a string always encodes
	}
	// Whoever wants to send CloudEvents here asks first (HTTP webhooks for event delivery, section 4).
	if origin := header("WebHook-Request-Origin"); req.Method == http.MethodOptions && origin != "" {
		got.Handshake, got.Answered = true, http.StatusOK
		r.print(&got)
		w.Header().Set("Allow", "POST")
		w.Header().Set("WebHook-Allowed-Origin", origin)
		w.Header().Set("WebHook-Allowed-Rate", "*")
		return
	}
	if v := r.verify.Load(); v != nil {
		signed := body
		if req.Method == http.MethodGet {
			signed = []byte(req.URL.RawQuery) // there is no body
		}
		err := v.Verify(req.Header, signed, r.now())
		ok := err == nil
		got.Verified = &ok
		if err != nil {
			got.Problem = err.Error()
		}
	}
	if peek.Type == "endpoint.verification" && peek.Challenge != "" {
		got.Challenge, got.Answered = true, http.StatusOK
		r.print(&got)
		w.Header().Set("Content-Type", "application/json")
		// A challenge of ours is plain ASCII, but what arrives here may come from anyone: encode it.
		_ = json.NewEncoder(w).Encode(map[string]string{"challenge": peek.Challenge})
		return
	}
	if r.opts.delay > 0 {
		_ = run.Sleep(req.Context(), r.opts.delay) // a sender that gave up: print it, nobody reads the answer
	}
	r.print(&got)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(r.opts.status)
	_, _ = io.WriteString(w, "{\"received\": "+strconv.FormatBool(r.opts.status < 300)+"}\n")
}

// print writes one receipt whole: deliveries arrive side by side.
func (r *receiver) print(got *receipt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if got.WebhookID != "" && !got.handshake() {
		got.Repeat = r.seen.add(got.WebhookID)
	}
	var b bytes.Buffer
	if r.opts.json {
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(got); err != nil {
			return // unreachable: every member encodes
		}
	} else {
		got.line(&b)
		if !r.opts.quiet && !got.handshake() {
			got.content(&b)
		}
	}
	_, _ = r.out.Write(b.Bytes())
}

// line writes the receipt for a person:
//
//	15:04:05.123  call.ended  evt_01J…  call c-77  attempt 1  ✓ verified
func (g *receipt) line(b *bytes.Buffer) {
	parts := []string{g.Time.Local().Format("15:04:05.000")}
	switch {
	case g.Challenge:
		parts = append(parts, "challenge answered: the endpoint is verified now")
	case g.Handshake:
		parts = append(parts, "CloudEvents handshake answered: "+g.Headers["webhook-request-origin"]+" may send")
	case len(g.Events) > 0:
		parts = append(parts, "batch of "+strconv.Itoa(len(g.Events)), firstOf(g.WebhookID, "no id"))
		if g.Attempt > 0 {
			parts = append(parts, "attempt "+strconv.Itoa(g.Attempt))
		}
	default:
		parts = append(parts, firstOf(g.Type, g.Method+" "+g.Path))
		parts = append(parts, firstOf(g.EventID, g.WebhookID, "no event id"))
		if g.CallID != "" {
			parts = append(parts, "call "+g.CallID)
		}
		if g.Attempt > 0 {
			parts = append(parts, "attempt "+strconv.Itoa(g.Attempt))
		}
	}
	switch {
	case g.Verified == nil && !g.handshake():
		parts = append(parts, "? unverified (no --secret)")
	case g.Verified != nil && *g.Verified:
		parts = append(parts, "✓ verified")
	case g.Verified != nil:
		parts = append(parts, "✗ "+g.Problem)
	}
	if g.Repeat {
		parts = append(parts, "repeat of "+g.WebhookID)
	}
	if g.Answered != http.StatusOK {
		parts = append(parts, "answered "+strconv.Itoa(g.Answered))
	}
	b.WriteString(oneLine(strings.Join(parts, "  ")))
	b.WriteByte('\n')
}

// handshake says that the request was no delivery, but asked whether deliveries are welcome.
func (g *receipt) handshake() bool { return g.Challenge || g.Handshake }

// content writes what was delivered: the events of a batch in short, the attributes of a CloudEvent in binary mode, the fields of a query, the body.
func (g *receipt) content(b *bytes.Buffer) {
	for _, e := range g.Events {
		item := firstOf(e.Type, "no type") + "  " + firstOf(e.EventID, "no event id")
		if e.CallID != "" {
			item += "  call " + e.CallID
		}
		b.WriteString("    " + oneLine(item) + "\n")
	}
	var attributes []string
	for name, value := range g.Headers {
		if attribute, ok := strings.CutPrefix(name, "ce-"); ok {
			attributes = append(attributes, attribute+": "+value)
		}
	}
	slices.Sort(attributes)
	if len(attributes) > 0 {
		b.WriteString("    " + oneLine("ce  "+strings.Join(attributes, "  ")) + "\n")
	}
	if _, query, _ := strings.Cut(g.Path, "?"); g.Method == http.MethodGet && query != "" {
		for pair := range strings.SplitSeq(query, "&") {
			name, value, _ := strings.Cut(pair, "=")
			b.WriteString("    " + oneLine(unescaped(name)+": "+unescaped(value)) + "\n")
		}
	}
	if len(g.Body) > 0 {
		pretty(b, g.Body)
	} else if len(attributes) > 0 || g.Method == http.MethodGet {
		b.WriteByte('\n')
	}
}

// unescaped is a part of a query as it was meant, or as it is where it means nothing.
func unescaped(s string) string {
	if plain, err := url.QueryUnescape(s); err == nil {
		return plain
	}
	return s
}

func pretty(b *bytes.Buffer, body json.RawMessage) {
	var text string
	if json.Unmarshal(body, &text) == nil {
		b.WriteString("    " + strings.ReplaceAll(printable(text), "\n", "\n    ") + "\n\n")
		return
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, body, "    ", "  "); err != nil {
		return
	}
	b.WriteString("    " + printable(indented.String()) + "\n\n")
}

// recentIDs remembers the ids seen lately, within a bound: half of it at least.
type recentIDs struct {
	half          int
	recent, older map[[16]byte]struct{}
}

func newRecentIDs(bound int) *recentIDs {
	return &recentIDs{half: bound / 2, recent: map[[16]byte]struct{}{}}
}

// has says whether id is remembered.
func (s *recentIDs) has(id string) bool {
	key := idKey(id)
	if _, there := s.recent[key]; there {
		return true
	}
	_, there := s.older[key]
	return there
}

// add remembers id and says whether it was there already.
func (s *recentIDs) add(id string) bool {
	there := s.has(id)
	if len(s.recent) >= s.half {
		s.recent, s.older = map[[16]byte]struct{}{}, s.recent
	}
	s.recent[idKey(id)] = struct{}{}
	return there
}

// idKey keeps an id of any length in 16 bytes.
func idKey(id string) [16]byte {
	sum := sha256.Sum256([]byte(id))
	return [16]byte(sum[:16])
}
