package callstream

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// eventView is an event and what became of it.
type eventView struct {
	ID         string          `json:"id"`
	Type       string          `json:"type"`
	Time       string          `json:"time"`
	Source     string          `json:"source"`
	CallID     string          `json:"call_id"`
	AgentID    string          `json:"agent_id"`
	Data       json.RawMessage `json:"data"`
	AcceptedAt string          `json:"accepted_at"`
	Record     string          `json:"record"`
	Note       string          `json:"note"`
	Dead       *struct {
		Reason string `json:"reason"`
		Detail string `json:"detail"`
	} `json:"dead"`
	OtherSources []string       `json:"other_sources"`
	Deliveries   []deliveryView `json:"deliveries"`
}

func newEventsCommand() *cobra.Command {
	var api apiFlags
	var out output
	cmd := &cobra.Command{
		Use:     "events",
		Aliases: []string{"event"},
		Short:   "Events, and what became of them",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	api.addTo(cmd)
	out.addTo(cmd)
	cmd.AddCommand(newGetCommand(&api, &out, "/v1/events", "get ID", "One event, and what became of it for each subscription", printEvent,
		parameter{name: "source", usage: "the event of this source, where several have used the id"}))
	return cmd
}

func newCallsCommand() *cobra.Command {
	var api apiFlags
	var out output
	cmd := &cobra.Command{
		Use:     "calls",
		Aliases: []string{"call"},
		Short:   "Calls, event by event",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	api.addTo(cmd)
	out.addTo(cmd)
	cmd.AddCommand(
		newGetCommand(&api, &out, "/v1/calls", "get CALL", "A call's timeline: its events, and what became of each", printCall),
		newCallResponses(&api, &out),
	)
	return cmd
}

func printEvent(w io.Writer, raw json.RawMessage) error {
	var e eventView
	if err := json.Unmarshal(raw, &e); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if err := pairs(w,
		[2]string{"id", e.ID}, [2]string{"type", e.Type}, [2]string{"time", dayAndTime(e.Time)}, [2]string{"source", e.Source}, [2]string{"call", e.CallID},
		[2]string{"agent", e.AgentID}, [2]string{"accepted", dayAndTime(e.AcceptedAt)}, [2]string{"record", e.Record},
	); err != nil {
		return err
	}
	if len(e.Data) > 0 {
		fmt.Fprintln(w)
		if err := printJSON(w, e.Data); err != nil {
			return err
		}
	}
	printNote(w, e.Note)
	for _, s := range e.OtherSources {
		fmt.Fprintf(w, "The source %s has used this id as well: --source shows that event.\n", oneLine(s))
	}
	fmt.Fprintln(w)
	return e.became(w, "")
}

// became prints what became of the event, one line a subscription.
func (e *eventView) became(w io.Writer, indent string) error {
	if e.Dead != nil {
		fmt.Fprintf(w, "%sin the dead letters: %s\n", indent, why(e.Dead.Reason, e.Dead.Detail))
	}
	if len(e.Deliveries) == 0 && e.Dead == nil {
		fmt.Fprintf(w, "%sno subscription wants events of its type\n", indent)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i := range e.Deliveries {
		d := &e.Deliveries[i]
		fmt.Fprintf(tw, "%s%s\t%s\t%s\n", indent, oneLine(d.State), oneLine(d.SubscriptionID), oneLine(d.outcome()))
	}
	return tw.Flush()
}

// printCall prints a timeline: each event with the time that passed since the first one, and what became of it.
func printCall(w io.Writer, raw json.RawMessage) error {
	var call struct {
		CallID    string      `json:"call_id"`
		Events    []eventView `json:"events"`
		Truncated bool        `json:"truncated"`
	}
	if err := json.Unmarshal(raw, &call); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	fmt.Fprintf(w, "call %s, %s\n", oneLine(call.CallID), count(len(call.Events), "event"))
	var first time.Time
	for i := range call.Events {
		e := &call.Events[i]
		at, err := time.Parse(time.RFC3339Nano, e.Time)
		shown := e.Time
		switch {
		case err != nil:
		case first.IsZero():
			first = at
			shown = at.Local().Format("2006-01-02 15:04:05.000")
		default:
			shown = fmt.Sprintf("%23s", "+"+at.Sub(first).Round(time.Millisecond).String())
		}
		fmt.Fprintf(w, "\n%s  %s  %s\n", oneLine(shown), oneLine(e.Type), oneLine(e.ID))
		if err := e.became(w, "    "); err != nil {
			return err
		}
	}
	if call.Truncated {
		fmt.Fprintln(w, "\n… the call has more than is shown.")
	}
	return nil
}
