package callstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
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
		Method  string `json:"method"`
		Timeout string `json:"timeout"`
	} `json:"request"`
	Auth struct {
		Type string `json:"type"`
	} `json:"auth"`
	Signing struct {
		Scheme            string `json:"scheme"`
		PublicKey         string `json:"public_key"`
		PreviousExpiresAt string `json:"previous_expires_at"`
	} `json:"signing"`
	// Replay is in the answer to an activation that sends what was missed.
	Replay *struct {
		ID     string `json:"id"`
		Events int    `json:"events"`
		Lost   int    `json:"lost"`
	} `json:"replay"`
}

// keys prints the key that deliveries are verified with, as far as the API shows it: a secret in the answer that made it
// alone.
func (s *subscriptionView) keys(w io.Writer) {
	if s.Secret != "" {
		fmt.Fprintf(w, "Its signing secret, shown this once:\n  %s\n", oneLine(s.Secret))
	}
	if s.Signing.PublicKey != "" {
		fmt.Fprintf(w, "Its public key:\n  %s\n", oneLine(s.Signing.PublicKey))
	}
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
		newSubscriptionsCreate(&api, &out), newSubscriptionsList(&api, &out), newGetCommand(&api, &out, subscriptionsPath, "get ID", "One subscription", printSubscription),
		newSubscriptionsUpdate(&api, &out), newDeleteCommand(&api, &out, subscriptionsPath, "Remove subscriptions; what was not sent yet is skipped", "Deleted"),
		newSubscriptionsAction(&api, &out, "verify", "Run the verification handshake again, and activate the subscription when it passes"),
		newSubscriptionsActivate(&api, &out),
		newSubscriptionsAction(&api, &out, "pause", "Skip deliveries until it is activated"),
		newSubscriptionsRotate(&api, &out), newSubscriptionsStats(&api, &out), newSubscriptionsTest(&api, &out), newSubscriptionsPreview(&api, &out),
		newSubscriptionsDiff(&api, &out), newSubscriptionsApply(&api, &out), newSubscriptionsSchema(),
	)
	return cmd
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
			s.Secret = secret
			s.keys(w)
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
		path: subscriptionsPath, short: "Subscriptions, newest first",
		none:   "There are no subscriptions; `callstream subscriptions create` makes one.",
		header: []string{"ID", "NAME", "STATE", "EVENTS", "URL"},
		row: func(s *subscriptionView) []string {
			return []string{s.ID, s.Name, s.State, strings.Join(s.Events, ","), s.URL}
		},
		search: []parameter{
			{name: "q", usage: "only those with this text in the name, the id, the URL's host or an event pattern"},
			{name: "state", usage: "only those that are pending, active, paused or disabled"},
			{name: "event", usage: "only those that get events of this type"}, {name: "sort", usage: "created (newest first) or position"},
		},
	}.command(api, out)
}

func subscriptionPath(id string) string { return subscriptionsPath + "/" + url.PathEscape(id) }

// printSubscription prints one subscription for a person.
func printSubscription(w io.Writer, raw json.RawMessage) error {
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
		[2]string{"method", s.Request.Method}, [2]string{"timeout", s.Request.Timeout}, [2]string{"auth", s.Auth.Type}, [2]string{"signing", s.Signing.Scheme},
		[2]string{"public key", s.Signing.PublicKey}, [2]string{"key before until", dayAndTime(s.Signing.PreviousExpiresAt)}, [2]string{"verification", s.Verification},
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
			if out.json {
				return printJSON(cmd.OutOrStdout(), raw)
			}
			// Another signing scheme brings another secret.
			return errors.Join(printSubscription(cmd.OutOrStdout(), raw), printSecret(cmd.OutOrStdout(), raw))
		},
	}
	flags.addTo(cmd)
	cmd.Flags().Int64Var(&version, "if-version", 0, "only if this is still its version")
	return cmd
}

// printSecret prints the signing secret in an answer, if there is one.
func printSecret(w io.Writer, raw json.RawMessage) error {
	var s subscriptionView
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if s.Signing.PublicKey = ""; s.Secret != "" {
		s.keys(w)
	}
	return nil
}

// act posts to /v1/subscriptions/{id}/<action>.
func (c *apiClient) act(ctx context.Context, id, action string, body any) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var raw json.RawMessage
	err := c.do(ctx, http.MethodPost, subscriptionPath(id)+"/"+action, body, &raw, nil)
	return raw, err
}

// newSubscriptionsAction is a command that posts to /v1/subscriptions/{id}/<name>.
func newSubscriptionsAction(api *apiFlags, out *output, name, short string) *cobra.Command {
	return &cobra.Command{
		Use:   name + " ID",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return actOn(cmd, api, out, args[0], name, nil, func(s *subscriptionView, w io.Writer) {
				fmt.Fprintf(w, "%s is %s.\n", oneLine(s.ID), oneLine(stateOf(s)))
			})
		},
	}
}

// actOn takes an action, and prints what the subscription is then.
func actOn(cmd *cobra.Command, api *apiFlags, out *output, id, action string, body any, show func(*subscriptionView, io.Writer)) error {
	c, err := api.client(cmd)
	if err != nil {
		return err
	}
	raw, err := c.act(cmd.Context(), id, action, body)
	if err != nil {
		return err
	}
	if out.json {
		return printJSON(cmd.OutOrStdout(), raw)
	}
	var s subscriptionView
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	show(&s, cmd.OutOrStdout())
	return nil
}

func newSubscriptionsActivate(api *apiFlags, out *output) *cobra.Command {
	var missed bool
	cmd := &cobra.Command{
		Use:   "activate ID",
		Short: "Send deliveries again, after a pause or after the system disabled it",
		Long: `Send deliveries again. With --replay-missed the events that were skipped while the subscription was paused or disabled
are sent too, each once, by its present version.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var body any
			if missed {
				body = map[string]any{"replay_missed": true}
			}
			return actOn(cmd, api, out, args[0], "activate", body, func(s *subscriptionView, w io.Writer) {
				fmt.Fprintf(w, "%s is %s.\n", oneLine(s.ID), oneLine(stateOf(s)))
				if s.Replay == nil {
					return
				}
				if s.Replay.Events == 0 {
					fmt.Fprintln(w, "It has missed nothing that could be sent.")
				} else {
					fmt.Fprintf(w, "%s that it missed are sent now, marked webhook-replay: %s.\n", count(s.Replay.Events, "event"), oneLine(s.Replay.ID))
				}
				if s.Replay.Lost > 0 {
					fmt.Fprintf(w, "%s can't be sent any more: retention has taken them from the log.\n", count(s.Replay.Lost, "event"))
				}
			})
		},
	}
	cmd.Flags().BoolVar(&missed, "replay-missed", false, "send what was skipped in the meantime")
	return cmd
}

func newSubscriptionsRotate(api *apiFlags, out *output) *cobra.Command {
	var overlap string
	cmd := &cobra.Command{
		Use:   "rotate-secret ID",
		Short: "Make a new signing key; it is shown this once",
		Long: `Make a new signing key. Deliveries carry the signatures of both keys for the overlap, in which the endpoint changes over
to the new one.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var body any
			if cmd.Flags().Changed("overlap") {
				body = map[string]any{"overlap": overlap}
			}
			return actOn(cmd, api, out, args[0], "rotate-secret", body, func(s *subscriptionView, w io.Writer) {
				fmt.Fprintf(w, "%s has a new signing key.\n", oneLine(s.ID))
				s.keys(w)
				if until := s.Signing.PreviousExpiresAt; until != "" {
					fmt.Fprintf(w, "The one before signs as well until %s.\n", dayAndTime(until))
				}
			})
		},
	}
	cmd.Flags().StringVar(&overlap, "overlap", "24h", "how long the key before signs as well, 0s to 7d")
	return cmd
}
