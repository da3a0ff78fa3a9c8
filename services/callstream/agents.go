package callstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

// agentSettingsView are the webhooks of one agent.
type agentSettingsView struct {
	Webhooks struct {
		PostCall *string `json:"postCall"`
	} `json:"webhooks"`
	SubscriptionID string `json:"subscription_id"`
	Secret         string `json:"secret"`
}

func agentSettingsPath(agent string) string {
	return "/v1/agents/" + url.PathEscape(agent) + "/settings"
}

func newAgentsCommand() *cobra.Command {
	var api apiFlags
	var out output
	cmd := &cobra.Command{
		Use:     "agents",
		Aliases: []string{"agent"},
		Short:   "Webhooks of single agents",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	settings := &cobra.Command{
		Use:   "settings",
		Short: "An agent's webhooks: the shorthand for a post-call subscription",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	api.addTo(cmd)
	out.addTo(cmd)
	cmd.AddCommand(settings)
	settings.AddCommand(newAgentSettingsGet(&api, &out), newAgentSettingsSet(&api, &out))
	return cmd
}

func newAgentSettingsGet(api *apiFlags, out *output) *cobra.Command {
	return &cobra.Command{
		Use:   "get AGENT",
		Short: "An agent's webhooks",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return agentSettings(cmd, api, out, http.MethodGet, args[0], nil)
		},
	}
}

func newAgentSettingsSet(api *apiFlags, out *output) *cobra.Command {
	var postCall string
	var none bool
	cmd := &cobra.Command{
		Use:   "set AGENT --post-call URL",
		Short: "Say where an agent's post-call reports go",
		Long: `Make, change or remove the subscription that sends the call.report of an agent's calls, in the payload post-call. The
endpoint must acknowledge a sample. It is for admins. The signing secret is shown this once.`,
		Example: `  callstream agents settings set a-9 --post-call https://crm.example.com/calls
  callstream agents settings set a-9 --no-post-call`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var to *string
			switch {
			case postCall != "":
				to = &postCall
			case !none:
				return errors.New("--post-call says where to, and --no-post-call that they go nowhere")
			}
			return agentSettings(cmd, api, out, http.MethodPut, args[0], map[string]any{"webhooks": map[string]any{"postCall": to}})
		},
	}
	cmd.Flags().StringVar(&postCall, "post-call", "", "the endpoint")
	cmd.Flags().BoolVar(&none, "no-post-call", false, "send them nowhere")
	cmd.MarkFlagsMutuallyExclusive("post-call", "no-post-call")
	return cmd
}

// agentSettings gets or puts an agent's settings, and prints what they are then.
func agentSettings(cmd *cobra.Command, api *apiFlags, out *output, method, agent string, body any) error {
	show := func(w io.Writer, raw json.RawMessage) error { return printAgentSettings(w, agent, raw) }
	return exchange{method, agentSettingsPath(agent), body, show}.run(cmd, api, out)
}

func printAgentSettings(w io.Writer, agent string, raw json.RawMessage) error {
	var v agentSettingsView
	if err := json.Unmarshal(raw, &v); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if v.Webhooks.PostCall == nil {
		fmt.Fprintf(w, "The post-call reports of %s go nowhere of their own.\n", oneLine(agent))
		return nil
	}
	fmt.Fprintf(w, "The post-call reports of %s go to %s (%s).\n", oneLine(agent), oneLine(*v.Webhooks.PostCall), oneLine(v.SubscriptionID))
	(&subscriptionView{Secret: v.Secret}).keys(w)
	return nil
}
