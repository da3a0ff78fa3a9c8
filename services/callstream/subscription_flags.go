package callstream

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/callstream/callstream/services/callstream/declare"
)

// subscriptionFlags are the members of a subscription that have a flag. What has none is written in a file.
type subscriptionFlags struct {
	file       string
	authSecret string
	// certificate is the file with the client certificate of mtls.
	certificate string
}

// memberFlag is a flag for one member.
type memberFlag struct {
	name string
	// member is the path to it, "request.timeout".
	member string
	kind   flagKind
	usage  string
}

type flagKind int

const (
	textFlag   flagKind = iota
	listFlag            // comma-separated or repeated
	countFlag           // a whole number
	switchFlag          // true or false; the default is true
	onFlag              // the same, where the default is false
	pairFlag            // "name: value" or "name=value", repeated: members of an object
	jsonFlag            // a JSON object
)

func memberFlags() []memberFlag {
	return []memberFlag{
		{"url", "url", textFlag, "the endpoint"},
		{"events", "events", listFlag, "event types: exact, family.* or *; comma-separated or repeated"},
		{"name", "name", textFlag, "a name for people"},
		{"filter", "filter", textFlag, "CEL over event: event.data.disposition == 'qualified'"},
		{"agents", "agents", listFlag, "only events of these agents"},
		{"profile", "payload.profile", textFlag, "what the body looks like: standard, cloudevents, cloudevents-binary, push, callback, dialer, platform, post-call, raw or custom"},
		{"template", "payload.template", textFlag, "CEL over event that yields the body, for --profile custom"},
		{"include", "payload.include", listFlag, "only these members of the event: data.summary,data.disposition"},
		{"exclude", "payload.exclude", listFlag, "not these members of the event: data.transcript_text"},
		{"transcript", "payload.transcript", textFlag, "how much of the transcript is sent: full, snippet or none"},
		{"redact", "payload.redact", listFlag, "what is blanked out: phone, email, name, address, speech, payment, ssn, …, or a /regular expression/"},
		{"extra", "payload.extra", jsonFlag, `a JSON object that is merged into the body: {"env": "prod"}`},
		{"method", "request.method", textFlag, "POST, or GET with the fields in the query"},
		{"route", "request.routes", pairFlag, "where an event type goes, 'call.started=/started'; may be repeated"},
		{"header", "request.headers", pairFlag, "a request header, 'X-Team: crm'; may be repeated"},
		{"timeout", "request.timeout", textFlag, "how long the endpoint may take, 30s at most"},
		{"auth", "auth.type", textFlag, "how callstream authenticates at the endpoint: none, bearer, basic, api_key, oauth2 or mtls"},
		{"auth-username", "auth.username", textFlag, "with --auth basic: the user"},
		{"auth-header", "auth.header", textFlag, "with --auth api_key: the header's name"},
		{"token-url", "auth.token_url", textFlag, "with --auth oauth2: where tokens are fetched"},
		{"client-id", "auth.client_id", textFlag, "with --auth oauth2: the client"},
		{"oauth-scopes", "auth.scopes", listFlag, "with --auth oauth2: the scopes to ask for"},
		{"signing", "signing.scheme", textFlag, "how deliveries are signed: hmac, ed25519 or none"},
		{"verification", "verification", textFlag, "how the endpoint proves itself: challenge, options (the CloudEvents handshake), and for admins ack or manual"},
		{"activate", "activate", switchFlag, "whether verification makes it active; false leaves it paused"},
		{"capture-response", "capture_response", onFlag, "keep what the endpoint answers, for whoever looks at the call"},
		{"ttl", "ttl", textFlag, "how long after its acceptance an event is still worth sending"},
		{"lane", "lane", textFlag, "delivery lane"},
		{"max-in-flight", "max_in_flight", countFlag, "requests at the same time"},
		{"rate-limit", "rate_limit.per_second", countFlag, "requests a second"},
		{"frequency", "frequency", jsonFlag, `how many events at most: {"per": "call", "max": 1, "window": "10m"}`},
		{"batch", "batch", jsonFlag, `several events in one request: {"max_events": 100, "max_wait": "2s"}`},
		{"ordering", "ordering", textFlag, "per_call: the events of a call one after the other"},
		{"fallback-url", "fallback_url", textFlag, "where a delivery goes when the endpoint has had all its attempts"},
		{"spread", "spread", countFlag, "partitions that deliveries are spread over"},
		{"retry-schedule", "retry.schedule", listFlag, "delays between attempts: 5s,1m,1h"},
		{"max-attempts", "retry.max_attempts", countFlag, "attempts in all"},
		{"retry-on", "retry.retry_on", listFlag, "what is tried again: timeout, connection, 429, 5xx"},
		{"position", "position", countFlag, "place in the list"},
	}
}

func (f *subscriptionFlags) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "file", "f", "", "file with the JSON object, - for standard input; flags go over it")
	flags.StringVar(&f.authSecret, "auth-secret", "", "with --auth: where its secret is, env:NAME or file:PATH (the token, password, header's value, client secret or private key)")
	flags.StringVar(&f.certificate, "auth-certificate", "", "with --auth mtls: file with the client certificate and its chain, PEM")
	for _, m := range memberFlags() {
		switch m.kind {
		case textFlag, jsonFlag:
			flags.String(m.name, "", m.usage)
		case listFlag:
			flags.StringSlice(m.name, nil, m.usage)
		case countFlag:
			flags.Int(m.name, 0, m.usage)
		case switchFlag:
			flags.Bool(m.name, true, m.usage)
		case onFlag:
			flags.Bool(m.name, false, m.usage)
		case pairFlag:
			flags.StringArray(m.name, nil, m.usage)
		}
	}
}

// object returns the JSON object of the file, if one is named, with the flags that were given over it.
func (f *subscriptionFlags) object(cmd *cobra.Command) (map[string]any, error) {
	object := map[string]any{}
	if f.file != "" {
		raw, err := readInput(cmd, f.file)
		if err != nil {
			return nil, err
		}
		if err := decodeExactly(raw, &object); err != nil {
			return nil, fmt.Errorf("%s is not a JSON object: %w", f.file, err)
		}
	}
	for _, m := range memberFlags() {
		if !cmd.Flags().Changed(m.name) {
			continue
		}
		if err := m.put(cmd, object); err != nil {
			return nil, err
		}
	}
	return object, f.credentials(object)
}

// put sets the member to what the flag says.
func (m memberFlag) put(cmd *cobra.Command, object map[string]any) error {
	flags := cmd.Flags()
	var v any
	var err error
	switch m.kind {
	case textFlag:
		v, err = flags.GetString(m.name)
	case listFlag:
		v, err = flags.GetStringSlice(m.name)
	case countFlag:
		v, err = flags.GetInt(m.name)
	case switchFlag, onFlag:
		v, err = flags.GetBool(m.name)
	case jsonFlag:
		var text string
		if text, err = flags.GetString(m.name); err != nil {
			break
		}
		members := map[string]any{}
		if err := decodeExactly([]byte(text), &members); err != nil {
			return fmt.Errorf("--%s is not a JSON object: %w", m.name, err)
		}
		v = members
	case pairFlag:
		var pairs []string
		if pairs, err = flags.GetStringArray(m.name); err != nil {
			break
		}
		for _, pair := range pairs {
			at := strings.IndexAny(pair, ":=")
			if at < 0 || strings.TrimSpace(pair[:at]) == "" {
				return fmt.Errorf("--%s %q: write it as 'name: value' or 'name=value'", m.name, pair)
			}
			putAt(object, m.member, strings.TrimSpace(pair[at+1:]), strings.TrimSpace(pair[:at]))
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("--%s: %w", m.name, err)
	}
	putAt(object, m.member, v)
	return nil
}

// putAt sets the member at a path of objects, "request.timeout", and what follows it.
func putAt(object map[string]any, member string, v any, more ...string) {
	path := append(strings.Split(member, "."), more...)
	for _, name := range path[:len(path)-1] {
		inner, ok := object[name].(map[string]any)
		if !ok {
			inner = map[string]any{}
			object[name] = inner
		}
		object = inner
	}
	object[path[len(path)-1]] = v
}

// credentials reads the secret and the certificate from where the flags say that they are.
func (f *subscriptionFlags) credentials(object map[string]any) error {
	if f.certificate != "" {
		raw, err := os.ReadFile(f.certificate)
		if err != nil {
			return fmt.Errorf("--auth-certificate: %w", err)
		}
		putAt(object, "auth.certificate", string(raw))
	}
	if f.authSecret == "" {
		return nil
	}
	auth, _ := object["auth"].(map[string]any)
	member := map[any]string{"bearer": "token", "basic": "password", "api_key": "value", "oauth2": "client_secret", "mtls": "private_key"}[auth["type"]]
	if member == "" {
		return fmt.Errorf("--auth-secret belongs to --auth bearer, basic, api_key, oauth2 or mtls")
	}
	var from declare.Reference
	kind, where, _ := strings.Cut(f.authSecret, ":")
	switch {
	case kind == "env" && where != "":
		from.Env = where
	case kind == "file" && where != "":
		path, err := filepath.Abs(where)
		if err != nil {
			return fmt.Errorf("--auth-secret: %w", err)
		}
		from.File = path
	default:
		// What was written may be the secret itself, so it is not repeated.
		return fmt.Errorf("--auth-secret says where the secret is: env:NAME or file:PATH")
	}
	secret, err := from.Read(os.LookupEnv)
	if err != nil {
		return fmt.Errorf("--auth-secret: %w", err)
	}
	putAt(object, "auth."+member, secret)
	return nil
}

// decodeExactly reads JSON and keeps numbers as they are written.
func decodeExactly(raw []byte, out *map[string]any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(out); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF { //nolint:errorlint // the decoder returns io.EOF itself
		return fmt.Errorf("more follows after it")
	}
	if *out == nil {
		return fmt.Errorf("it is null")
	}
	return nil
}

// readInput reads a file that a flag names, or standard input for "-".
func readInput(cmd *cobra.Command, name string) ([]byte, error) {
	var raw []byte
	var err error
	if name == "-" {
		raw, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxAnswer))
	} else {
		raw, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, fmt.Errorf("read the JSON object: %w", err)
	}
	return raw, nil
}
