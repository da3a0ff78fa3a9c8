package callstream

import (
	"encoding/json"
	"strconv"

	"github.com/spf13/cobra"
)

// auditView is what the table shows of a line of the audit log.
type auditView struct {
	At      string          `json:"at"`
	Actor   string          `json:"actor"`
	Action  string          `json:"action"`
	ID      string          `json:"id"`
	Version int64           `json:"version"`
	Detail  json.RawMessage `json:"detail"`
}

func newAuditCommand() *cobra.Command {
	var api apiFlags
	var out output
	cmd := listing[auditView]{
		path: "/v1/audit", short: "Who changed or redrove what, newest first", none: "Nothing like that has been changed.",
		header: []string{"AT", "ACTOR", "ACTION", "WHAT", "VERSION", "DETAIL"},
		row: func(l *auditView) []string {
			detail := string(l.Detail)
			if detail == "{}" || detail == "null" {
				detail = ""
			}
			return []string{dayAndTime(l.At), l.Actor, l.Action, l.ID, strconv.FormatInt(l.Version, 10), detail}
		},
		search: []parameter{
			{name: "id", usage: "of this subscription, key or redrive"}, {name: "kind", usage: "subscription, key or redrive"},
			{name: "actor", usage: "by this API key"}, {name: "action", usage: "created, updated, deleted, verified, activated, paused, disabled, recovered, rotated, …"},
			{name: "since", usage: "from then on", past: true}, {name: "until", usage: "before then", past: true},
		},
		most: 50,
	}.command(&api, &out)
	cmd.Use, cmd.Aliases = "audit", nil
	api.addTo(cmd)
	out.addTo(cmd)
	return cmd
}
