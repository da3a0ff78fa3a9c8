package callstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// subscriptionsPath is where the API has subscriptions.
const subscriptionsPath = "/v1/subscriptions"

// subscriptionView is what the tables show of a subscription; --json prints the API's answer as it is.
type subscriptionView struct {
	ID           string   `json:"id"`
	Tenant       string   `json:"tenant"`
	Name         string   `json:"name"`
	URL          string   `json:"url"`
	PendingURL   string   `json:"pending_url"`
	State        string   `json:"state"`
	StateReason  string   `json:"state_reason"`
	Events       []string `json:"events"`
	Agents       []string `json:"agents"`
	Filter       string   `json:"filter"`
	Verification string   `json:"verification"`
	Lane         string   `json:"lane"`
	MaxInFlight  int      `json:"max_in_flight"`
	Version      int64    `json:"version"`
	CreatedAt    string   `json:"created_at"`
	UpdatedAt    string   `json:"updated_at"`
	Secret       string   `json:"secret"`
	Payload      struct {
		Profile string `json:"profile"`
	} `json:"payload"`
	Request struct {
		Timeout string `json:"timeout"`
	} `json:"request"`
}

// page is a list's answer.
type page struct {
	Items      []json.RawMessage `json:"items"`
	NextCursor string            `json:"next_cursor"`
}

func newSubscriptionsCommand() *cobra.Command {
	var api apiFlags
	var out output
	cmd := &cobra.Command{
		Use:     "subscriptions",
		Aliases: []string{"subscription", "subs"},
		Short:   "Endpoints and what is sent to them",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	api.addTo(cmd)
	out.addTo(cmd)
	cmd.AddCommand(
		newSubscriptionsCreate(&api, &out), newSubscriptionsList(&api, &out), newSubscriptionsGet(&api, &out),
		newSubscriptionsUpdate(&api, &out), newDeleteCommand(&api, &out, subscriptionsPath, "Remove subscriptions; what was not sent yet is skipped", "Deleted"),
		newSubscriptionsAction(&api, &out, "verify", "Run the verification handshake again, and activate the subscription when it passes"),
		newSubscriptionsAction(&api, &out, "activate", "Send deliveries again, after a pause or after the system disabled it"),
		newSubscriptionsAction(&api, &out, "pause", "Skip deliveries until it is activated"),
		newSubscriptionsDiff(&api, &out), newSubscriptionsApply(&api, &out), newSubscriptionsSchema(),
	)
	return cmd
}

// subscriptionFlags are the members of a subscription that have a flag. What has none is written in a file.
type subscriptionFlags struct {
	file                                       string
	url, name, filter, profile, verification   string
	lane, ttl, timeout                         string
	events, agents, headers, schedule          []string
	maxInFlight, spread, maxAttempts, position int
	activate                                   bool
}

func (f *subscriptionFlags) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "file", "f", "", "file with the JSON object, - for standard input; flags go over it")
	flags.StringVar(&f.url, "url", "", "the endpoint")
	flags.StringSliceVar(&f.events, "events", nil, "event types: exact, family.* or *; comma-separated or repeated")
	flags.StringVar(&f.name, "name", "", "a name for people")
	flags.StringVar(&f.filter, "filter", "", "CEL over event: event.data.disposition == 'qualified'")
	flags.StringSliceVar(&f.agents, "agents", nil, "only events of these agents")
	flags.StringVar(&f.profile, "profile", "", "what the body looks like: standard, post-call")
	flags.StringVar(&f.verification, "verification", "", "how the endpoint proves itself: challenge, ack, manual")
	flags.BoolVar(&f.activate, "activate", true, "whether verification makes it active; false leaves it paused")
	flags.StringArrayVar(&f.headers, "header", nil, "a request header, 'X-Team: crm'; may be repeated")
	flags.StringVar(&f.timeout, "timeout", "", "how long the endpoint may take, 30s at most")
	flags.StringVar(&f.ttl, "ttl", "", "how long after its acceptance an event is still worth sending")
	flags.StringVar(&f.lane, "lane", "", "delivery lane")
	flags.IntVar(&f.maxInFlight, "max-in-flight", 0, "requests at the same time")
	flags.IntVar(&f.spread, "spread", 0, "partitions that deliveries are spread over")
	flags.StringSliceVar(&f.schedule, "retry-schedule", nil, "delays between attempts: 5s,1m,1h")
	flags.IntVar(&f.maxAttempts, "max-attempts", 0, "attempts in all")
	flags.IntVar(&f.position, "position", 0, "place in the list")
}

// object returns the JSON object of the file, if one is named, with the flags that were given over it.
func (f *subscriptionFlags) object(cmd *cobra.Command) (map[string]any, error) {
	object := map[string]any{}
	if f.file != "" {
		raw, err := readInput(cmd, f.file)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(raw, &object); err != nil {
			return nil, fmt.Errorf("%s is not a JSON object: %w", f.file, err)
		}
	}
	changed := cmd.Flags().Changed
	set := func(flag string, value any, path ...string) {
		if !changed(flag) {
			return
		}
		at := object
		for _, name := range path[:len(path)-1] {
			inner, ok := at[name].(map[string]any)
			if !ok {
				inner = map[string]any{}
				at[name] = inner
			}
			at = inner
		}
		at[path[len(path)-1]] = value
	}
	set("url", f.url, "url")
	set("events", f.events, "events")
	set("name", f.name, "name")
	set("filter", f.filter, "filter")
	set("agents", f.agents, "agents")
	set("profile", f.profile, "payload", "profile")
	set("verification", f.verification, "verification")
	set("activate", f.activate, "activate")
	set("timeout", f.timeout, "request", "timeout")
	set("ttl", f.ttl, "ttl")
	set("lane", f.lane, "lane")
	set("max-in-flight", f.maxInFlight, "max_in_flight")
	set("spread", f.spread, "spread")
	set("retry-schedule", f.schedule, "retry", "schedule")
	set("max-attempts", f.maxAttempts, "retry", "max_attempts")
	set("position", f.position, "position")
	for _, h := range f.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return nil, fmt.Errorf("--header %q: write it as 'Name: value'", h)
		}
		set("header", strings.TrimSpace(value), "request", "headers", strings.TrimSpace(name))
	}
	return object, nil
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

func newSubscriptionsCreate(api *apiFlags, out *output) *cobra.Command {
	var flags subscriptionFlags
	var verify bool
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Subscribe an endpoint to events, and verify it",
		Long: `Subscribe an endpoint to events, and verify it at once: by a challenge, unless --verification says otherwise. Nothing is
sent to an endpoint that has not passed; --verify=false leaves that for later. The signing secret is shown this once.`,
		Example: `  callstream subscriptions create --url https://crm.example.com/hooks --events 'call.*,transcript.ready'
  callstream subscriptions create --url http://127.0.0.1:9000/ --events '*' --filter "event.data.score >= 80.0"
  callstream subscriptions create -f subscription.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			object, err := flags.object(cmd)
			if err != nil {
				return err
			}
			c, err := api.client(cmd)
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := c.do(cmd.Context(), http.MethodPost, subscriptionsPath, object, &raw, nil); err != nil {
				return err
			}
			var s subscriptionView
			if err := json.Unmarshal(raw, &s); err != nil {
				return fmt.Errorf("read the answer: %w", err)
			}
			// Whatever becomes of the verification, the secret is shown: there is no other time.
			var failed error
			if verify && s.State == "pending" {
				raw, failed = c.verifyNew(cmd.Context(), s.ID, raw)
			}
			if out.json {
				return errors.Join(printJSON(cmd.OutOrStdout(), raw), failed)
			}
			secret := s.Secret
			if err := json.Unmarshal(raw, &s); err != nil {
				return fmt.Errorf("read the answer: %w", err)
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "Created %s: %s.\n", s.ID, stateOf(&s))
			if secret != "" {
				fmt.Fprintf(w, "Its signing secret, shown this once:\n  %s\n", oneLine(secret))
			}
			if s.State == "pending" {
				fmt.Fprintf(w, "Nothing is sent until its endpoint has passed verification:\n  callstream subscriptions verify %s\n", s.ID)
			}
			return failed
		},
	}
	flags.addTo(cmd)
	cmd.Flags().BoolVar(&verify, "verify", true, "verify the endpoint now")
	return cmd
}

// verifyNew verifies a subscription that was just created. It returns the subscription as it is then, with its secret.
func (c *apiClient) verifyNew(ctx context.Context, id string, created json.RawMessage) (json.RawMessage, error) {
	var verified map[string]json.RawMessage
	if err := c.do(ctx, http.MethodPost, subscriptionPath(id)+"/verify", nil, &verified, nil); err != nil {
		return created, err
	}
	var before map[string]json.RawMessage
	if err := json.Unmarshal(created, &before); err != nil {
		return created, fmt.Errorf("read the answer: %w", err)
	}
	if secret, ok := before["secret"]; ok {
		verified["secret"] = secret
	}
	raw, err := json.Marshal(verified)
	if err != nil {
		return created, fmt.Errorf("read the answer: %w", err)
	}
	return raw, nil
}

// stateOf names a subscription's state with the reason for it.
func stateOf(s *subscriptionView) string {
	if s.StateReason != "" {
		return s.State + " (" + s.StateReason + ")"
	}
	return s.State
}

func newSubscriptionsList(api *apiFlags, out *output) *cobra.Command {
	return listing[subscriptionView]{
		path: subscriptionsPath, short: "All subscriptions, newest first",
		none:   "There are no subscriptions; `callstream subscriptions create` makes one.",
		header: []string{"ID", "NAME", "STATE", "EVENTS", "URL"},
		row: func(s *subscriptionView) []string {
			return []string{s.ID, s.Name, s.State, strings.Join(s.Events, ","), s.URL}
		},
	}.command(api, out)
}

func (c *apiClient) list(ctx context.Context, path string) ([]json.RawMessage, error) {
	items := []json.RawMessage{}
	cursor := ""
	for {
		query := url.Values{"limit": {"500"}}
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		var p page
		if err := c.do(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &p, nil); err != nil {
			return nil, err
		}
		items = append(items, p.Items...)
		if p.NextCursor == "" || p.NextCursor == cursor {
			return items, nil
		}
		cursor = p.NextCursor
	}
}

func newSubscriptionsGet(api *apiFlags, out *output) *cobra.Command {
	return &cobra.Command{
		Use:   "get ID",
		Short: "One subscription",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := api.client(cmd)
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := c.do(cmd.Context(), http.MethodGet, subscriptionPath(args[0]), nil, &raw, nil); err != nil {
				return err
			}
			return out.subscription(cmd.OutOrStdout(), raw)
		},
	}
}

func subscriptionPath(id string) string { return subscriptionsPath + "/" + url.PathEscape(id) }

// subscription prints one subscription.
func (o *output) subscription(w io.Writer, raw json.RawMessage) error {
	if o.json {
		return printJSON(w, raw)
	}
	var s subscriptionView
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	number := func(n int64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatInt(n, 10)
	}
	if err := pairs(w,
		[2]string{"id", s.ID}, [2]string{"name", s.Name}, [2]string{"tenant", s.Tenant}, [2]string{"state", stateOf(&s)},
		[2]string{"url", s.URL}, [2]string{"pending url", s.PendingURL}, [2]string{"events", strings.Join(s.Events, ", ")},
		[2]string{"agents", strings.Join(s.Agents, ", ")}, [2]string{"filter", s.Filter}, [2]string{"profile", s.Payload.Profile},
		[2]string{"verification", s.Verification}, [2]string{"timeout", s.Request.Timeout},
		[2]string{"max in flight", number(int64(s.MaxInFlight))}, [2]string{"lane", s.Lane}, [2]string{"version", number(s.Version)},
		[2]string{"created", dayAndTime(s.CreatedAt)}, [2]string{"updated", dayAndTime(s.UpdatedAt)},
	); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "\n--json shows everything.")
	return err
}

func newSubscriptionsUpdate(api *apiFlags, out *output) *cobra.Command {
	var flags subscriptionFlags
	var version int64
	cmd := &cobra.Command{
		Use:   "update ID",
		Short: "Change some members of a subscription",
		Long: `Change the members that flags name, or those in a file with a JSON merge patch (null removes a member). A change
answers once it is in force.`,
		Example: `  callstream subscriptions update sub_… --events 'call.ended,call.failed'
  echo '{"filter": null}' | callstream subscriptions update sub_… -f -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			patch, err := flags.object(cmd)
			if err != nil {
				return err
			}
			if len(patch) == 0 {
				return fmt.Errorf("nothing to change: name a member by its flag, or a file with -f")
			}
			c, err := api.client(cmd)
			if err != nil {
				return err
			}
			header := http.Header{}
			if version > 0 {
				header.Set("If-Match", `"`+strconv.FormatInt(version, 10)+`"`)
			}
			var raw json.RawMessage
			if err := c.do(cmd.Context(), http.MethodPatch, subscriptionPath(args[0]), patch, &raw, header); err != nil {
				return err
			}
			return out.subscription(cmd.OutOrStdout(), raw)
		},
	}
	flags.addTo(cmd)
	cmd.Flags().Int64Var(&version, "if-version", 0, "only if this is still its version")
	return cmd
}

// newSubscriptionsAction is a command that posts to /v1/subscriptions/{id}/<name>.
func newSubscriptionsAction(api *apiFlags, out *output, name, short string) *cobra.Command {
	return &cobra.Command{
		Use:   name + " ID",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := api.client(cmd)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			var raw json.RawMessage
			if err := c.do(ctx, http.MethodPost, subscriptionPath(args[0])+"/"+name, nil, &raw, nil); err != nil {
				return err
			}
			if out.json {
				return printJSON(cmd.OutOrStdout(), raw)
			}
			var s subscriptionView
			if err := json.Unmarshal(raw, &s); err != nil || s.ID == "" {
				fmt.Fprintln(cmd.OutOrStdout(), "Done.")
				return nil //nolint:nilerr // an answer without the object is an answer all the same
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is %s.\n", s.ID, oneLine(stateOf(&s)))
			return nil
		},
	}
}
