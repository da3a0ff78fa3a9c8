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
	At      time.Time       `json:"at"`
	Actor   string          `json:"actor" doc:"the id of the API key, cli, a dispatcher, or system" example:"key_01JH3XVZ5W2B8QJ4N6T7M9R0PD"`
	Action  string          `json:"action" example:"updated"`
	Kind    string          `json:"kind" enum:"subscription,key,redrive"`
	ID      string          `json:"id" example:"sub_01JH3XW8E1Z5C9V7K2M4N6P8QR"`
	Version int64           `json:"version,omitempty" doc:"the object's version that the action made; absent where it made none"`
	Detail  json.RawMessage `json:"detail" doc:"more, by action; changed lists the places of the members that an update changed, never their values"`
}

// listAudit are the parameters of the audit log.
type listAudit struct {
	ListInput
	Kind   string    `query:"kind" enum:"subscription,key,redrive"`
	ID     string    `query:"id" maxLength:"64" doc:"of the subscription, key or redrive"`
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
		if query.BeforeSeq, err = a.openAuditPlace(p.Tenant, before); err != nil {
			return nil, errCursor()
		}
	}
	lines, err := store.Audit(ctx, p.Tenant, query)
	if err != nil {
		return nil, err
	}
	cut := page(lines, in.Limit, func(l storage.AuditLine) string {
		var sealed string
		sealed, err = a.sealAuditPlace(p.Tenant, l.Seq)
		return sealed
	})
	if err != nil {
		return nil, err
	}
	entries := make([]auditEntry, len(cut.Items))
	for i, l := range cut.Items {
		entries[i] = auditEntry{At: l.At, Actor: l.Actor, Action: l.Action, Kind: string(l.Kind), ID: l.ID, Version: l.Version, Detail: l.Detail}
	}
	return &manyAuditEntries{list[auditEntry]{Items: entries, NextCursor: cut.NextCursor}}, nil
}

// The lines of all tenants are counted together, so a place among them would tell a tenant how busy the others are: a
// cursor has it sealed.
func (s *Service) sealAuditPlace(tenant string, seq int64) (string, error) {
	return s.deps.Box.Seal([]byte(strconv.FormatInt(seq, 10)), tenant, "", fieldAuditPlace)
}

func (s *Service) openAuditPlace(tenant, sealed string) (int64, error) {
	place, err := s.deps.Box.Open(sealed, tenant, "", fieldAuditPlace)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(place), 10, 64)
}

// fieldAuditPlace is what the seal of an audit cursor is for; no subscription has such a field.
const fieldAuditPlace = "audit.place"
