package callstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/callstream/callstream/pkg/run"
)

const (
	// deadLettersPath is where the API has what was given up, redrivesPath what was sent again of it.
	deadLettersPath = "/v1/dlq"
	redrivesPath    = "/v1/redrives"
	// progressEvery is how often a redrive is asked how far it is.
	progressEvery = 200 * time.Millisecond
)

// deadLetterView is what people are shown of a dead letter.
type deadLetterView struct {
	ID             string `json:"id"`
	Reason         string `json:"reason"`
	Detail         string `json:"detail"`
	SubscriptionID string `json:"subscription_id"`
	DeliveryID     string `json:"delivery_id"`
	EventID        string `json:"event_id"`
	Type           string `json:"type"`
	Source         string `json:"source"`
	CallID         string `json:"call_id"`
	Attempts       int    `json:"attempts"`
	HTTPStatus     int    `json:"http_status"`
	ErrorClass     string `json:"error_class"`
	FirstFailedAt  string `json:"first_failed_at"`
	LastFailedAt   string `json:"last_failed_at"`
	DeadAt         string `json:"dead_at"`
	Service        string `json:"service"`
	Record         string `json:"record"`
	Original       string `json:"original"`
	RedrivenAt     string `json:"redriven_at"`
	RedrivenBy     string `json:"redriven_by"`
	NotRedrivable  string `json:"not_redrivable"`
}

// why says in a few words how it died: "exhausted (…), 503, 3 attempts".
func (l *deadLetterView) why() string {
	parts := []string{why(l.Reason, l.Detail)}
	switch {
	case l.HTTPStatus != 0:
		parts = append(parts, strconv.Itoa(l.HTTPStatus))
	case l.ErrorClass != "" && l.ErrorClass != l.Reason:
		parts = append(parts, l.ErrorClass)
	}
	if l.Attempts > 0 {
		parts = append(parts, count(l.Attempts, "attempt"))
	}
	return strings.Join(parts, ", ")
}

// redriven says when it was redriven, and by what.
func (l *deadLetterView) redriven() string {
	if l.RedrivenAt == "" {
		return ""
	}
	return dayAndTime(l.RedrivenAt) + " by " + l.RedrivenBy
}

// deadLetterSearch are the parameters that choose dead letters, in a list and in a redrive.
func deadLetterSearch() []parameter {
	return []parameter{
		{name: "subscription_id", usage: "of this subscription"}, {name: "event_id", usage: "of this event"}, {name: "call_id", usage: "of this call's events"},
		{name: "type", usage: "of events of this type"}, {name: "reason", usage: "dead because of it: exhausted, rejected, gone, render_failed, poison, …"},
		{name: "http_status", usage: "whose last answer had this status"}, {name: "error_class", usage: "whose last error was of this class: timeout, tls, http_5xx, …"},
		{name: "service", usage: "given up by this process"}, {name: "redriven", usage: "true or false: whether it was redriven"},
		{name: "since", usage: "dead from then on", past: true}, {name: "until", usage: "dead before then", past: true},
	}
}

func newDeadLettersCommand() *cobra.Command {
	var api apiFlags
	var out output
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "What was given up: see it, search it, send it again",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	api.addTo(cmd)
	out.addTo(cmd)
	cmd.AddCommand(
		listing[deadLetterView]{
			path: deadLettersPath, short: "Dead letters, newest first", none: "There are no such dead letters.",
			header: []string{"DEAD", "TYPE", "CALL", "SUBSCRIPTION", "WHY", "REDRIVEN", "ID"},
			row: func(l *deadLetterView) []string {
				return []string{dayAndTime(l.DeadAt), l.Type, l.CallID, l.SubscriptionID, l.why(), l.redriven(), l.ID}
			},
			search: deadLetterSearch(), most: 50,
		}.command(&api, &out),
		newGetCommand(&api, &out, deadLettersPath, "get ID", "One dead letter, with the original record", printDeadLetter),
		newRedriveCommand(&api, &out), newRedrivesCommand(&api, &out), newPostCommand(&api, &out, redrivesPath, "cancel", "End a redrive; what was sent again stays so", printRedrive),
	)
	return cmd
}

func printDeadLetter(w io.Writer, raw json.RawMessage) error {
	var v struct {
		deadLetterView
		Error   string            `json:"error"`
		Headers map[string]string `json:"headers"`
		Request *struct {
			Method  string            `json:"method"`
			Query   string            `json:"query"`
			Headers map[string]string `json:"headers"`
			bodyView
		} `json:"request"`
		Event    json.RawMessage `json:"event"`
		Response *bodyView       `json:"response"`
		Note     string          `json:"note"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if err := pairs(w,
		[2]string{"id", v.ID}, [2]string{"why", v.why()}, [2]string{"error", v.Error}, [2]string{"dead", dayAndTime(v.DeadAt)}, [2]string{"by", v.Service},
		[2]string{"first failed", dayAndTime(v.FirstFailedAt)}, [2]string{"last failed", dayAndTime(v.LastFailedAt)},
		[2]string{"subscription", v.SubscriptionID}, [2]string{"delivery", v.DeliveryID}, [2]string{"event", v.EventID}, [2]string{"type", v.Type}, [2]string{"call", v.CallID},
		[2]string{"source", v.Source}, [2]string{"record", v.Record}, [2]string{"original", v.Original}, [2]string{"redriven", v.redriven()}, [2]string{"can't be redriven", v.NotRedrivable},
	); err != nil {
		return err
	}
	if len(v.Headers) > 0 {
		fmt.Fprintf(w, "\n── the original record\n")
		printHeaders(w, v.Headers)
	}
	if r := v.Request; r != nil {
		fmt.Fprintf(w, "\n── the request\n%s %s\n", oneLine(r.Method), oneLine(r.Query))
		printHeaders(w, r.Headers)
		r.print(w)
		fmt.Fprintln(w)
	}
	if v.Event != nil {
		fmt.Fprintf(w, "\n── the event\n")
		if err := printJSON(w, v.Event); err != nil {
			return err
		}
	}
	if v.Response != nil {
		fmt.Fprintf(w, "\n── the last answer\n")
		v.Response.print(w)
		fmt.Fprintln(w)
	}
	printNote(w, v.Note)
	return nil
}

// redriveView is what people are shown of a redrive.
type redriveView struct {
	ID          string         `json:"id"`
	State       string         `json:"state"`
	Total       int            `json:"total"`
	Done        int            `json:"done"`
	Failed      int            `json:"failed"`
	Skipped     int            `json:"skipped"`
	Left        int            `json:"left"`
	Reasons     map[string]int `json:"reasons"`
	RequestedBy string         `json:"requested_by"`
	RequestedAt string         `json:"requested_at"`
	Explained   []struct {
		ID     string `json:"id"`
		Reason string `json:"reason"`
		Detail string `json:"detail"`
	} `json:"explained"`
}

// explain prints why letters were not sent again: all reasons, and the first letters.
func (r *redriveView) explain(w io.Writer) {
	const most = 10
	for _, reason := range slices.Sorted(maps.Keys(r.Reasons)) {
		fmt.Fprintf(w, "  %s %s\n", thousands(int64(r.Reasons[reason])), oneLine(reason))
	}
	for i, e := range r.Explained {
		if i == most {
			fmt.Fprintf(w, "  … --json has more of them\n")
			return
		}
		fmt.Fprintf(w, "  %s: %s\n", oneLine(e.ID), oneLine(why(e.Reason, e.Detail)))
	}
}

func newRedriveCommand(api *apiFlags, out *output) *cobra.Command {
	search := deadLetterSearch()
	given := make([]string, len(search))
	var all, dryRun, wait bool
	var rate int
	cmd := &cobra.Command{
		Use:   "redrive [ID…]",
		Short: "Send dead letters again: those with these ids, or those that the flags choose",
		Long: `Send dead letters again, the same bytes under the same webhook-id, with a new retry schedule: those with these ids, or those
that the flags choose (--all chooses every one). What was redriven before is left alone unless it is named, or --redriven true chooses it. What
could not be rendered is rendered anew. It goes on in the service when this command ends: dlq redrives says how far it is.`,
		Example: `  callstream dlq redrive --subscription-id sub_01J… --since 2h --dry-run
  callstream dlq redrive --reason exhausted --http-status 503 --rate 50
  callstream dlq redrive dlq_3_1042`,
		RunE: func(cmd *cobra.Command, args []string) error {
			query := parameters(search, given)
			if chosen := all || len(query) > 0; chosen == (len(args) > 0) {
				return errors.New("name dead letters, or choose them by flags; --all chooses every one")
			}
			body, err := redriveBody(args, query)
			if err != nil {
				return err
			}
			if dryRun {
				body["dry_run"] = true
			}
			if rate != 0 {
				body["rate"] = rate
			}
			c, err := api.client(cmd)
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := c.do(cmd.Context(), http.MethodPost, deadLettersPath+":redrive", body, &raw, nil); err != nil {
				return err
			}
			return followRedrive(cmd, c, out, raw, wait && !dryRun)
		},
	}
	addParameters(cmd, search, given)
	cmd.Flags().BoolVar(&all, "all", false, "all that were not redriven yet")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only count, and say what can't be sent")
	cmd.Flags().BoolVar(&wait, "wait", true, "wait until it is done")
	cmd.Flags().IntVar(&rate, "rate", 0, "most a second (default 100)")
	return cmd
}

// redriveBody is the request that names ids, or has the search parameters as a filter.
func redriveBody(ids []string, query url.Values) (map[string]any, error) {
	if len(ids) > 0 {
		return map[string]any{"ids": ids}, nil
	}
	filter := map[string]any{}
	for name := range query {
		value := query.Get(name)
		var typed any = value
		var err error
		switch name {
		case "http_status":
			typed, err = strconv.Atoi(value)
		case "redriven":
			typed, err = strconv.ParseBool(value)
		}
		if err != nil {
			return nil, fmt.Errorf("--%s %q: %w", strings.ReplaceAll(name, "_", "-"), value, errors.Unwrap(err))
		}
		filter[name] = typed
	}
	return map[string]any{"filter": filter}, nil
}

// followRedrive prints a redrive as the API has answered it, and where it is to be waited for, how it ends.
func followRedrive(cmd *cobra.Command, c *apiClient, out *output, raw json.RawMessage, wait bool) error {
	var r redriveView
	if err := json.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if wait && r.State == "running" {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		ended, err := c.awaitRedrive(ctx, r.ID, progressOn(cmd.ErrOrStderr()))
		if err != nil {
			return fmt.Errorf("%w; the redrive %s goes on in the service", err, r.ID)
		}
		raw = ended
	}
	return out.print(cmd.OutOrStdout(), raw, printRedrive)
}

func printRedrive(w io.Writer, raw json.RawMessage) error {
	var r redriveView
	if err := json.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	switch r.State {
	case "dry_run":
		fmt.Fprintf(w, "%s: %s would be sent again, %s would not.\n", count(r.Total, "dead letter"), thousands(int64(r.Left)), thousands(int64(r.Skipped)))
	case "running":
		fmt.Fprintf(w, "%s: sending %s again.\n", oneLine(r.ID), count(r.Left, "dead letter"))
	default:
		fmt.Fprintf(w, "%s is %s: of %s %s sent again, %s failed, %s skipped.\n", oneLine(r.ID), r.State, count(r.Total, "dead letter"),
			thousands(int64(r.Done)), thousands(int64(r.Failed)), thousands(int64(r.Skipped)))
	}
	r.explain(w)
	return nil
}

// awaitRedrive waits until a redrive has ended, and returns it.
func (c *apiClient) awaitRedrive(ctx context.Context, id string, show func(done, total int)) (json.RawMessage, error) {
	for {
		var raw json.RawMessage
		if err := c.do(ctx, http.MethodGet, redrivesPath+"/"+url.PathEscape(id), nil, &raw, nil); err != nil {
			return nil, err
		}
		var r redriveView
		if err := json.Unmarshal(raw, &r); err != nil {
			return nil, fmt.Errorf("read the answer: %w", err)
		}
		show(r.Total-r.Left, r.Total)
		if r.State != "running" {
			return raw, nil
		}
		if err := run.Sleep(ctx, progressEvery); err != nil {
			return nil, err
		}
	}
}

// progressOn draws a bar on a person's terminal, and nothing elsewhere.
func progressOn(w io.Writer) func(done, total int) {
	const width = 40
	if !isTerminal(w) {
		return func(int, int) {}
	}
	return func(done, total int) {
		filled := width * done / max(total, 1)
		fmt.Fprintf(w, "\r[%s%s] %s of %s", strings.Repeat("█", filled), strings.Repeat("·", width-filled), thousands(int64(done)), thousands(int64(total)))
		if done == total {
			fmt.Fprintln(w)
		}
	}
}

func newRedrivesCommand(api *apiFlags, out *output) *cobra.Command {
	cmd := listing[redriveView]{
		path: redrivesPath, short: "Redrives, newest first", none: "Nothing was redriven.",
		header: []string{"ASKED", "BY", "STATE", "TOTAL", "DONE", "FAILED", "SKIPPED", "LEFT", "ID"},
		row: func(r *redriveView) []string {
			cells := []string{dayAndTime(r.RequestedAt), r.RequestedBy, r.State}
			for _, n := range []int{r.Total, r.Done, r.Failed, r.Skipped, r.Left} {
				cells = append(cells, thousands(int64(n)))
			}
			return append(cells, r.ID)
		},
		most: 50,
	}.command(api, out)
	cmd.Use, cmd.Aliases = "redrives", nil
	return cmd
}

func newDeliveriesRetry(api *apiFlags, out *output) *cobra.Command {
	cmd := newPostCommand(api, out, deliveriesPath, "retry", "Send a delivery again now", printRetried)
	cmd.Long = `Send a delivery again now. A dead one is redriven: the same bytes, with a new retry schedule. One that was skipped or delivered is
rendered anew by the subscription's present version. One that waits for its next attempt gets it now.`
	return cmd
}

func printRetried(w io.Writer, raw json.RawMessage) error {
	var v struct {
		Action    string `json:"action"`
		RedriveID string `json:"redrive_id"`
		ReplayID  string `json:"replay_id"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	done := map[string]string{
		"redrive": "Its dead letter is sent again by", "replay": "Its event is rendered anew and sent by", "attempt": "Its next attempt is made now, by",
	}[v.Action]
	fmt.Fprintf(w, "%s %s.\n", done, oneLine(firstOf(v.RedriveID, v.ReplayID)))
	return nil
}
