package callstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// eventFlags choose the event that a subscription is tried out with.
type eventFlags struct {
	typ, file, id string
}

func (f *eventFlags) addTo(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.typ, "type", "", "the catalogue's sample of this event type; without any choice, of the first type that the subscription wants")
	cmd.Flags().StringVar(&f.file, "event", "", "file with the event, - for standard input")
	cmd.Flags().StringVar(&f.id, "event-id", "", "an event that was sent before")
	cmd.MarkFlagsMutuallyExclusive("type", "event", "event-id")
}

// body is the request's body that says which event is meant.
func (f *eventFlags) body(cmd *cobra.Command) (map[string]any, error) {
	body := map[string]any{}
	switch {
	case f.typ != "":
		body["type"] = f.typ
	case f.id != "":
		body["event_id"] = f.id
	case f.file != "":
		raw, err := readInput(cmd, f.file)
		if err != nil {
			return nil, err
		}
		if !json.Valid(raw) {
			return nil, fmt.Errorf("--event %s: it is not JSON", f.file)
		}
		body["event"] = json.RawMessage(raw)
	}
	return body, nil
}

// requestView is a request to an endpoint, with the values of secrets masked.
type requestView struct {
	Method  string            `json:"method"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

func (r *requestView) print(w io.Writer) {
	fmt.Fprintf(w, "%s %s\n", oneLine(r.Method), oneLine(r.URL))
	printHeaders(w, r.Headers)
	printBody(w, r.Body)
}

func printHeaders(w io.Writer, headers map[string]string) {
	names := make([]string, 0, len(headers))
	for name := range headers {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(w, "%s: %s\n", oneLine(name), oneLine(headers[name]))
	}
}

func printBody(w io.Writer, body string) {
	if body != "" {
		fmt.Fprintf(w, "\n%s\n", strings.TrimRight(printable(body), "\n"))
	}
}

// testView is what came of a test.
type testView struct {
	Delivered bool              `json:"delivered"`
	Matched   bool              `json:"matched"`
	Reason    string            `json:"reason"`
	Detail    string            `json:"detail"`
	Status    int               `json:"status"`
	Headers   map[string]string `json:"headers"`
	Body      string            `json:"body"`
	Truncated bool              `json:"truncated"`
	Error     *struct {
		Class  string `json:"class"`
		Detail string `json:"detail"`
	} `json:"error"`
	Timings struct {
		Connect   float64 `json:"connect_ms"`
		FirstByte float64 `json:"first_byte_ms"`
		Total     float64 `json:"total_ms"`
	} `json:"timings"`
	Event struct {
		ID   string `json:"id"`
		Type string `json:"type"`
	} `json:"event"`
	Request *requestView `json:"request"`
}

// errTestFailed ends a test that the endpoint did not take; what came back has been printed.
var errTestFailed = errors.New("the endpoint did not take it")

func newSubscriptionsTest(api *apiFlags, out *output) *cobra.Command {
	var event eventFlags
	cmd := &cobra.Command{
		Use:   "test ID",
		Short: "Send one event to the endpoint now, and show what it answers",
		Long: `Send one event as deliveries are sent, marked as a test, and show the endpoint's answer. It is neither tried again nor
counted. The exit status is 1 when the answer is none of success.`,
		Example: `  callstream subscriptions test sub_…
  callstream subscriptions test sub_… --type call.ended
  callstream subscriptions test sub_… --event event.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := event.body(cmd)
			if err != nil {
				return err
			}
			c, err := api.client(cmd)
			if err != nil {
				return err
			}
			raw, err := c.act(cmd.Context(), args[0], "test", body)
			if err != nil {
				return err
			}
			var v testView
			if err := json.Unmarshal(raw, &v); err != nil {
				return fmt.Errorf("read the answer: %w", err)
			}
			if out.json {
				err = printJSON(cmd.OutOrStdout(), raw)
			} else {
				v.print(cmd.OutOrStdout())
			}
			if err == nil && !v.Delivered {
				err = errTestFailed
			}
			return err
		},
	}
	event.addTo(cmd)
	return cmd
}

func (v *testView) print(w io.Writer) {
	if v.Request != nil {
		v.Request.print(w)
		fmt.Fprintln(w)
	}
	if v.Error != nil {
		fmt.Fprintf(w, "No answer (%s): %s\n", oneLine(v.Error.Class), oneLine(v.Error.Detail))
	} else {
		fmt.Fprintf(w, "%d %s\n", v.Status, http.StatusText(v.Status))
		printHeaders(w, v.Headers)
		printBody(w, v.Body)
		if v.Truncated {
			fmt.Fprintln(w, "… (the body goes on)")
		}
	}
	fmt.Fprintf(w, "\n%s of %s: connected after %s, first byte after %s, %s in all.\n", oneLine(v.Event.Type), oneLine(v.Event.ID),
		milliseconds(v.Timings.Connect), milliseconds(v.Timings.FirstByte), milliseconds(v.Timings.Total))
	if !v.Matched {
		fmt.Fprintf(w, "As an event of its own it would not have been sent: %s.\n", why(v.Reason, v.Detail))
	}
}

// why names a reason, in words where there are some.
func why(reason, detail string) string {
	if detail == "" {
		return oneLine(reason)
	}
	return oneLine(reason) + " (" + oneLine(detail) + ")"
}

// previewView is what an event would become.
type previewView struct {
	WouldSend bool         `json:"would_send"`
	Reason    string       `json:"reason"`
	Detail    string       `json:"detail"`
	Request   *requestView `json:"request"`
}

func newSubscriptionsPreview(api *apiFlags, out *output) *cobra.Command {
	var event eventFlags
	var file string
	cmd := &cobra.Command{
		Use:   "preview [ID]",
		Short: "Show the request that an event would become, or why it would not be sent",
		Long: `Show the exact request that an event would become for a subscription, or for one that is not saved (-f), or say why it
would not be sent. Nothing is sent. Secrets are masked.`,
		Example: `  callstream subscriptions preview sub_… --type call.ended
  callstream subscriptions preview -f subscription.json --event event.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (file == "") == (len(args) == 0) {
				return errors.New("name a subscription by its id, or one that is not saved by -f")
			}
			body, err := event.body(cmd)
			if err != nil {
				return err
			}
			if file == "" {
				body["subscription_id"] = args[0]
			} else {
				raw, err := readInput(cmd, file)
				if err != nil {
					return err
				}
				if !json.Valid(raw) {
					return fmt.Errorf("%s is not JSON", file)
				}
				body["subscription"] = json.RawMessage(raw)
			}
			return exchange{http.MethodPost, subscriptionsPath + ":preview", body, printPreview}.run(cmd, api, out)
		},
	}
	event.addTo(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "file with the subscription's JSON object, - for standard input")
	return cmd
}

func printPreview(w io.Writer, raw json.RawMessage) error {
	var v previewView
	if err := json.Unmarshal(raw, &v); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if !v.WouldSend {
		fmt.Fprintf(w, "It would not be sent: %s.\n", why(v.Reason, v.Detail))
	}
	if v.Request != nil {
		v.Request.print(w)
	}
	return nil
}
