package callstream

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// deliveriesPath is where the API has what became of events for subscriptions.
const deliveriesPath = "/v1/deliveries"

// deliveryView is what people are shown of a delivery.
type deliveryView struct {
	ID                  string  `json:"id"`
	EventID             string  `json:"event_id"`
	SubscriptionID      string  `json:"subscription_id"`
	SubscriptionVersion int64   `json:"subscription_version"`
	Type                string  `json:"type"`
	Source              string  `json:"source"`
	CallID              string  `json:"call_id"`
	State               string  `json:"state"`
	Reason              string  `json:"reason"`
	Detail              string  `json:"detail"`
	Via                 string  `json:"via"`
	Attempts            int     `json:"attempts"`
	NextAttemptAt       string  `json:"next_attempt_at"`
	HTTPStatus          int     `json:"http_status"`
	ErrorClass          string  `json:"error_class"`
	DurationMS          float64 `json:"duration_ms"`
	ReplayID            string  `json:"replay_id"`
	RedriveID           string  `json:"redrive_id"`
	RepeatAt            string  `json:"repeat_at"`
	CreatedAt           string  `json:"created_at"`
	UpdatedAt           string  `json:"updated_at"`
}

// outcome says what became of it in a few words: "200, 1 attempt", "filtered (…)".
func (d *deliveryView) outcome() string {
	var parts []string
	if d.Reason != "" {
		parts = append(parts, why(d.Reason, d.Detail))
	}
	switch {
	case d.HTTPStatus != 0:
		parts = append(parts, strconv.Itoa(d.HTTPStatus))
	case d.ErrorClass != "" && d.ErrorClass != d.Reason:
		parts = append(parts, d.ErrorClass)
	}
	if d.Attempts > 0 {
		parts = append(parts, count(d.Attempts, "attempt"))
	}
	if d.DurationMS > 0 {
		parts = append(parts, milliseconds(d.DurationMS))
	}
	if d.Via != "" && d.Via != "primary" {
		parts = append(parts, "via "+d.Via)
	}
	if d.NextAttemptAt != "" {
		parts = append(parts, "next "+dayAndTime(d.NextAttemptAt))
	}
	if d.ReplayID != "" {
		parts = append(parts, "by "+d.ReplayID)
	}
	if d.RedriveID != "" {
		parts = append(parts, "by "+d.RedriveID)
	}
	return strings.Join(parts, ", ")
}

func milliseconds(ms float64) string { return strconv.FormatFloat(ms, 'f', 1, 64) + " ms" }

func newDeliveriesCommand() *cobra.Command {
	var api apiFlags
	var out output
	cmd := &cobra.Command{
		Use:     "deliveries",
		Aliases: []string{"delivery"},
		Short:   "What became of events for each subscription",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	api.addTo(cmd)
	out.addTo(cmd)
	cmd.AddCommand(
		listing[deliveryView]{
			path: deliveriesPath, short: "Deliveries, those of the newest events first", none: "There are no such deliveries.",
			header: []string{"ACCEPTED", "TYPE", "CALL", "SUBSCRIPTION", "STATE", "OUTCOME", "ID"},
			row: func(d *deliveryView) []string {
				return []string{dayAndTime(d.CreatedAt), d.Type, d.CallID, d.SubscriptionID, d.State, d.outcome(), d.ID}
			},
			search: []parameter{
				{name: "subscription_id", usage: "to this subscription"}, {name: "event_id", usage: "of this event"}, {name: "call_id", usage: "of this call's events"},
				{name: "type", usage: "of events of this type"}, {name: "state", usage: "queued, delivered, retrying, dead or skipped"},
				{name: "reason", usage: "skipped, dead or retrying because of it: filtered, missing_field, paused, exhausted, …"},
				{name: "http_status", usage: "whose newest answer had this status"}, {name: "error_class", usage: "whose newest request failed so: timeout, tls, http_5xx, …"},
				{name: "since", usage: "of events accepted from then on", past: true}, {name: "until", usage: "of events accepted before then", past: true},
			},
			most: 50,
		}.command(&api, &out),
		newGetCommand(&api, &out, deliveriesPath, "get ID", "One delivery, with every attempt, request and answer", printDelivery),
		newDeliveriesRetry(&api, &out),
	)
	return cmd
}

// bodyView is a body, as text or in base64.
type bodyView struct {
	Body       string `json:"body"`
	BodyBase64 string `json:"body_base64"`
}

func (b *bodyView) print(w io.Writer) {
	if b.BodyBase64 != "" {
		fmt.Fprintf(w, "\n(base64) %s\n", oneLine(b.BodyBase64))
		return
	}
	printBody(w, b.Body)
}

// attemptView is one try to deliver, or the decision not to.
type attemptView struct {
	Number              int     `json:"number"`
	At                  string  `json:"at"`
	Outcome             string  `json:"outcome"`
	Reason              string  `json:"reason"`
	Via                 string  `json:"via"`
	SubscriptionVersion int64   `json:"subscription_version"`
	DurationMS          float64 `json:"duration_ms"`
	ConnectMS           float64 `json:"connect_ms"`
	FirstByteMS         float64 `json:"first_byte_ms"`
	Request             *struct {
		Method  string            `json:"method"`
		URL     string            `json:"url"`
		Query   string            `json:"query"`
		Headers map[string]string `json:"headers"`
		Note    string            `json:"note"`
		bodyView
	} `json:"request"`
	Response *struct {
		Status    int               `json:"status"`
		Headers   map[string]string `json:"headers"`
		Truncated bool              `json:"truncated"`
		bodyView
	} `json:"response"`
	ErrorClass    string `json:"error_class"`
	Error         string `json:"error"`
	NextAttemptAt string `json:"next_attempt_at"`
	ReplayID      string `json:"replay_id"`
	RedriveID     string `json:"redrive_id"`
	Note          string `json:"note"`
}

func printDelivery(w io.Writer, raw json.RawMessage) error {
	var v struct {
		deliveryView
		AttemptLog []attemptView  `json:"attempt_log"`
		Repeats    []deliveryView `json:"repeats"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if err := pairs(w,
		[2]string{"id", v.ID}, [2]string{"event", v.EventID}, [2]string{"type", v.Type}, [2]string{"call", v.CallID}, [2]string{"source", v.Source},
		[2]string{"subscription", fmt.Sprintf("%s, version %d", v.SubscriptionID, v.SubscriptionVersion)}, [2]string{"state", v.State},
		[2]string{"outcome", v.outcome()}, [2]string{"accepted", dayAndTime(v.CreatedAt)}, [2]string{"updated", dayAndTime(v.UpdatedAt)},
	); err != nil {
		return err
	}
	for i := range v.AttemptLog {
		v.AttemptLog[i].print(w)
	}
	for _, r := range v.Repeats {
		fmt.Fprintf(w, "\nThe event came again %s (%s): not delivered twice.\n", dayAndTime(r.CreatedAt), oneLine(r.RepeatAt))
	}
	return nil
}

func (a *attemptView) print(w io.Writer) {
	head := []string{"attempt " + strconv.Itoa(a.Number), dayAndTime(a.At), why(firstOf(a.Outcome, "not known"), a.Reason)}
	if a.Number == 0 {
		head[0] = "decision"
	}
	if a.DurationMS > 0 {
		head = append(head, fmt.Sprintf("%s (connected %s, first byte %s)", milliseconds(a.DurationMS), milliseconds(a.ConnectMS), milliseconds(a.FirstByteMS)))
	}
	if a.Via != "" && a.Via != "primary" {
		head = append(head, "via "+a.Via)
	}
	if a.SubscriptionVersion != 0 {
		head = append(head, "version "+strconv.FormatInt(a.SubscriptionVersion, 10))
	}
	if a.NextAttemptAt != "" {
		head = append(head, "next "+dayAndTime(a.NextAttemptAt))
	}
	if a.ReplayID != "" {
		head = append(head, "by "+a.ReplayID)
	}
	if a.RedriveID != "" {
		head = append(head, "by "+a.RedriveID)
	}
	fmt.Fprintf(w, "\n── %s\n", oneLine(strings.Join(head, "  ")))
	if r := a.Request; r != nil {
		target := r.URL
		if r.Query != "" {
			separator := "?"
			if strings.Contains(target, "?") {
				separator = "&"
			}
			target += separator + r.Query
		}
		fmt.Fprintf(w, "%s %s\n", oneLine(r.Method), oneLine(target))
		printHeaders(w, r.Headers)
		r.print(w)
		printNote(w, r.Note)
		fmt.Fprintln(w)
	}
	if r := a.Response; r != nil {
		fmt.Fprintf(w, "%d %s\n", r.Status, http.StatusText(r.Status))
		printHeaders(w, r.Headers)
		r.print(w)
		if r.Truncated {
			printNote(w, "the body goes on; this much of it is kept")
		}
	}
	if a.Error != "" || a.ErrorClass != "" && a.Response == nil {
		fmt.Fprintf(w, "%s\n", why(a.ErrorClass, a.Error))
	}
	printNote(w, a.Note)
}

func printNote(w io.Writer, note string) {
	if note != "" {
		fmt.Fprintf(w, "(%s)\n", oneLine(note))
	}
}
