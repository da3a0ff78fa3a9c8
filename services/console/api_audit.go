package console

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/services/console/storage"
)

// auditEntry is one line of the audit log as people see it.
type auditEntry struct {
	Seq     int64           `json:"seq" doc:"grows with every entry"`
	At      time.Time       `json:"at"`
	Actor   string          `json:"actor" doc:"the id of the API key, cli, a dispatcher, or system" example:"key_01JH3XVZ5W2B8QJ4N6T7M9R0PD"`
	Action  string          `json:"action" example:"updated"`
	Kind    string          `json:"kind" enum:"subscription,key"`
	ID      string          `json:"id" example:"sub_01JH3XW8E1Z5C9V7K2M4N6P8QR"`
	Version int64           `json:"version,omitempty" doc:"the object's version that the action made; absent where it made none"`
	Detail  json.RawMessage `json:"detail" doc:"more, by action; changed lists the places of the members that an update changed, never their values"`
}

// listAudit are the parameters of the audit log.
type listAudit struct {
	ListInput
	Kind   string    `query:"kind" enum:"subscription,key"`
	ID     string    `query:"id" maxLength:"64" doc:"of the subscription or key"`
	Actor  string    `query:"actor" maxLength:"200"`
	Action string    `query:"action" maxLength:"64" doc:"created, updated, deleted, verified, activated, paused, disabled, recovered, rotated, …"`
	Since  time.Time `query:"since" doc:"at or after this time (RFC 3339)"`
	Until  time.Time `query:"until" doc:"before this time (RFC 3339)"`
}

type manyAuditEntries struct{ Body list[auditEntry] }

func (a *apiSet) registerAudit() {
	register(a, operation{id: "list-audit", method: http.MethodGet, path: "/v1/audit", scope: auth.ScopeAdmin,
		summary: "Who changed what, newest first", errors: []int{http.StatusBadRequest, http.StatusUnprocessableEntity}}, a.audit)
}

func (a *apiSet) audit(ctx context.Context, store *storage.Store, p auth.Principal, in *listAudit) (*manyAuditEntries, error) {
	query := storage.AuditQuery{Kind: storage.Kind(in.Kind), ID: in.ID, Actor: in.Actor, Action: in.Action, Since: in.Since, Until: in.Until, Limit: in.Limit + 1}
	before, err := in.before()
	if err != nil {
		return nil, err
	}
	if before != "" {
		if query.BeforeSeq, err = strconv.ParseInt(before, 10, 64); err != nil {
			return nil, errCursor()
		}
	}
	lines, err := store.Audit(ctx, p.Tenant, query)
	if err != nil {
		return nil, err
	}
	entries := make([]auditEntry, len(lines))
	for i, l := range lines {
		entries[i] = auditEntry{Seq: l.Seq, At: l.At, Actor: l.Actor, Action: l.Action, Kind: string(l.Kind), ID: l.ID, Version: l.Version, Detail: l.Detail}
	}
	return &manyAuditEntries{page(entries, in.Limit, func(e auditEntry) string { return strconv.FormatInt(e.Seq, 10) })}, nil
}
