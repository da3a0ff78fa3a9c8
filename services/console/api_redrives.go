package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/history"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
)

const (
	// mostRedriven is how many letters one redrive takes, mostNamed how many a request may name.
	mostRedriven, mostNamed = 100_000, 1000
	// mostExplained bounds the letters that one answer explains.
	mostExplained = 200
	// redriveRate is how many letters a second are put back unless something else is asked for.
	redriveRate, mostRate = 100, 10_000
	// redriveStep is how many letters are read from the history at a time.
	redriveStep = 1000
)

// The reasons for which a letter is not redriven, known before anything is sent.
const (
	skippedUnknown   = "unknown"     // the tenant has no such letter
	skippedUndecided = "no_delivery" // no subscription was asked about the event
	skippedPoison    = "poison"      // the record does not decode
	skippedNoTenant  = "no_tenant"   // nobody could tell whose it is
)

// unredrivable says why a letter can't be redriven by any means; "" where it can.
func unredrivable(l *history.DeadLetter) (reason, detail string) {
	switch {
	case l.Tenant == "":
		return skippedNoTenant, "nobody could tell whose the record is"
	case isDelivery(l.Original.Topic) && l.Reason == "poison":
		return skippedPoison, "the record does not decode"
	case isDelivery(l.Original.Topic) && l.DeliveryID != "":
		return "", ""
	case topic.IsEvents(l.Original.Topic) && l.SubscriptionID != "" && l.DeliveryID != "":
		return "", ""
	case topic.IsEvents(l.Original.Topic):
		return skippedUndecided, "the event is not one that subscriptions can be asked about: mend it and send it again"
	}
	return skippedUndecided, "it is not a delivery"
}

// redriveRequest is the body of a request to redrive.
type redriveRequest struct {
	IDs    []string       `json:"ids,omitempty" maxItems:"1000" doc:"dead letters, or"`
	Filter *redriveFilter `json:"filter,omitempty" doc:"those that it chooses, as GET /v1/dlq does; {} are all"`
	DryRun bool           `json:"dry_run,omitempty" doc:"only count, and explain"`
	Rate   int            `json:"rate,omitempty" minimum:"1" maximum:"10000" default:"100" doc:"most letters a second"`
}

// redriveFilter chooses dead letters.
type redriveFilter struct {
	SubscriptionID string     `json:"subscription_id,omitempty"`
	EventID        string     `json:"event_id,omitempty"`
	CallID         string     `json:"call_id,omitempty"`
	Type           string     `json:"type,omitempty" doc:"type of the event"`
	Reason         string     `json:"reason,omitempty"`
	Since          *time.Time `json:"since,omitempty" doc:"dead at this time or after it"`
	Until          *time.Time `json:"until,omitempty" doc:"dead before this time"`
	HTTPStatus     int        `json:"http_status,omitempty"`
	ErrorClass     string     `json:"error_class,omitempty"`
	Service        string     `json:"service,omitempty"`
	Redriven       bool       `json:"redriven,omitempty" doc:"true: those that were redriven before, once more; else those that were not"`
}

func (f *redriveFilter) chosen() history.DeadFilter {
	chosen := history.DeadFilter{
		SubscriptionID: f.SubscriptionID, EventID: f.EventID, CallID: f.CallID, Type: f.Type, Reason: f.Reason, HTTPStatus: f.HTTPStatus, ErrorClass: f.ErrorClass,
		Service: f.Service, Redriven: &f.Redriven,
	}
	if f.Since != nil {
		chosen.Since = *f.Since
	}
	if f.Until != nil {
		chosen.Until = *f.Until
	}
	return chosen
}

// parseRedrive reads a request to redrive, and reports every fault with its place.
func parseRedrive(raw []byte) (*redriveRequest, error) {
	object, err := subscription.ParseObject(raw)
	if err != nil {
		return nil, err
	}
	var request redriveRequest
	faults := members(object, "", map[string]any{"ids": &request.IDs, "filter": nil, "dry_run": &request.DryRun, "rate": &request.Rate})
	_, filtered := object["filter"]
	if filtered {
		inner, isObject := object["filter"].(map[string]any)
		if !isObject {
			faults = append(faults, faultAt("/filter", "want an object"))
		}
		f := &redriveFilter{}
		faults = append(faults, members(inner, "/filter", map[string]any{
			"subscription_id": &f.SubscriptionID, "event_id": &f.EventID, "call_id": &f.CallID, "type": &f.Type, "reason": &f.Reason, "since": &f.Since, "until": &f.Until,
			"http_status": &f.HTTPStatus, "error_class": &f.ErrorClass, "service": &f.Service, "redriven": &f.Redriven,
		})...)
		request.Filter = f
	}
	if _, named := object["ids"]; named == filtered {
		faults = append(faults, faultAt("", "want one of ids and filter"))
	} else if named && (len(request.IDs) == 0 || len(request.IDs) > mostNamed) {
		faults = append(faults, faultAt("/ids", fmt.Sprintf("want 1 to %d ids; a filter chooses more", mostNamed)))
	}
	if _, given := object["rate"]; !given {
		request.Rate = redriveRate
	} else if request.Rate < 1 || request.Rate > mostRate {
		faults = append(faults, faultAt("/rate", fmt.Sprintf("want 1 to %d", mostRate)))
	}
	if len(faults) > 0 {
		return nil, faults
	}
	slices.Sort(request.IDs)
	request.IDs = slices.Compact(request.IDs)
	return &request, nil
}

// members reads the members of an object into where they belong; nil reads none. at is the object's place.
func members(object map[string]any, at string, into map[string]any) subscription.Faults {
	var faults subscription.Faults
	for _, name := range slices.Sorted(maps.Keys(object)) {
		to, known := into[name]
		switch {
		case !known:
			faults = append(faults, faultAt(at+"/"+escapePointer(name), "there is no such member"))
			continue
		case to == nil:
			continue
		}
		raw, err := json.Marshal(object[name])
		if err == nil {
			err = json.Unmarshal(raw, to)
		}
		if err != nil || object[name] == nil {
			faults = append(faults, faultAt(at+"/"+escapePointer(name), "want "+kindOf(to)))
		}
	}
	return faults
}

func kindOf(to any) string {
	switch to.(type) {
	case *bool:
		return "true or false"
	case *int:
		return "a whole number"
	case **time.Time:
		return "a time (RFC 3339)"
	case *[]string:
		return "an array of strings"
	}
	return "a string"
}

// redriveDocument is a redrive as the API shows it.
type redriveDocument struct {
	ID          string          `json:"id,omitempty" doc:"absent in the answer to a dry run" example:"rdr_01JH3XVZ5W2B8QJ4N6T7M9R0PD"`
	State       string          `json:"state" enum:"running,done,cancelled,dry_run"`
	Total       int             `json:"total" doc:"dead letters that were chosen"`
	Done        int             `json:"done" doc:"put back"`
	Failed      int             `json:"failed" doc:"could not be put back"`
	Skipped     int             `json:"skipped" doc:"not to be put back, for the reason"`
	Left        int             `json:"left" doc:"wait, or were left when it was cancelled"`
	Reasons     map[string]int  `json:"reasons,omitempty" doc:"those that failed or were skipped, by reason"`
	Explained   []explainedItem `json:"explained,omitempty" doc:"the same one by one, at most 200"`
	Request     json.RawMessage `json:"request,omitempty" doc:"what was asked for"`
	Rate        int             `json:"rate" doc:"most a second"`
	RequestedBy string          `json:"requested_by,omitempty"`
	RequestedAt *time.Time      `json:"requested_at,omitempty"`
	FinishedAt  *time.Time      `json:"finished_at,omitempty"`
}

// explainedItem says why one letter was not put back.
type explainedItem struct {
	ID     string `json:"id"`
	State  string `json:"state" enum:"failed,skipped"`
	Reason string `json:"reason"`
	Detail string `json:"detail,omitempty"`
}

func documentOfRedrive(r *storage.Redrive) redriveDocument {
	return redriveDocument{
		ID: r.ID, State: r.State, Total: r.Total, Done: r.Done, Failed: r.Failed, Skipped: r.Skipped, Left: r.Total - r.Done - r.Failed - r.Skipped, Request: r.Request, Rate: r.Rate,
		RequestedBy: r.RequestedBy, RequestedAt: known(r.RequestedAt), FinishedAt: known(r.FinishedAt),
	}
}

type (
	createRedrive struct{ Document }
	oneRedrive    struct{ Body redriveDocument }
	manyRedrives  struct{ Body list[redriveDocument] }
	actOnRedrive  struct {
		RedriveID
		Document
	}
)

// RedriveID is the id in a path. It is exported for huma, which sets embedded parameters by reflection.
type RedriveID struct {
	ID string `path:"id" maxLength:"64"`
}

func (a *apiSet) registerRedrives() {
	bodies := []int{http.StatusBadRequest, http.StatusNotFound, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge}
	register(a, operation{id: "redrive", method: http.MethodPost, path: "/v1/dlq:redrive", scope: auth.ScopeReplay, status: http.StatusAccepted,
		summary: "Send dead letters again, those with these ids or those that a filter chooses", body: schemaOf[redriveRequest](a), errors: bodies,
		request: map[string]any{"filter": map[string]any{"subscription_id": exampleID, "reason": "exhausted"}, "dry_run": true}}, a.redriveLetters)
	register(a, operation{id: "list-redrives", method: http.MethodGet, path: "/v1/redrives", scope: auth.ScopeDeliveriesRead,
		summary: "List redrives, newest first", errors: []int{http.StatusBadRequest, http.StatusUnprocessableEntity}}, a.listRedrives)
	register(a, operation{id: "get-redrive", method: http.MethodGet, path: "/v1/redrives/{id}", scope: auth.ScopeDeliveriesRead,
		summary: "Get a redrive: how far it is, and what could not be sent", errors: []int{http.StatusNotFound}}, a.getRedrive)
	register(a, operation{id: "cancel-redrive", method: http.MethodPost, path: "/v1/redrives/{id}/cancel", scope: auth.ScopeReplay,
		summary: "Cancel a redrive; what is put back stays so", body: schemaOf[nothing](a), bodyOptional: true,
		errors: []int{http.StatusBadRequest, http.StatusNotFound, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge}}, a.cancelRedrive)
	register(a, operation{id: "retry-delivery", method: http.MethodPost, path: "/v1/deliveries/{id}/retry", scope: auth.ScopeReplay, status: http.StatusAccepted,
		summary: "Send a delivery again now", body: schemaOf[nothing](a), bodyOptional: true,
		errors: append([]int{http.StatusConflict}, bodies...)}, a.retryDelivery)
}

// errNoKafka answers where the console has nothing to put letters back with.
func errNoKafka() error {
	return refuse(http.StatusServiceUnavailable, "Kafka is not there to send to")
}

func (a *apiSet) redriveLetters(ctx context.Context, store *storage.Store, p auth.Principal, in *createRedrive) (*oneRedrive, error) {
	request, err := parseRedrive(in.RawBody)
	if err != nil {
		return nil, err
	}
	if a.redrive == nil {
		return nil, errNoKafka()
	}
	chosen, err := a.lettersOf(ctx, store, p, request)
	if err != nil {
		return nil, err
	}
	if request.DryRun {
		return &oneRedrive{chosen.document(request.Rate)}, nil
	}
	spec := map[string]any{"ids": request.IDs}
	if request.Filter != nil {
		spec = map[string]any{"filter": request.Filter}
	}
	r, err := a.startRedrive(ctx, store, p, spec, request.Rate, chosen.items, request.Filter != nil && !request.Filter.Redriven)
	if err != nil {
		return nil, err
	}
	out := documentOfRedrive(r)
	if err := a.explain(ctx, store, &out); err != nil {
		return nil, err
	}
	out.Explained = append(chosen.unknown, out.Explained...)
	for range chosen.unknown {
		out.count(skippedUnknown)
	}
	return &oneRedrive{out}, nil
}

// startRedrive stores a redrive, for the redriver to work off.
func (a *apiSet) startRedrive(ctx context.Context, store *storage.Store, p auth.Principal, spec map[string]any, rate int, items []storage.RedriveItem, once bool) (*storage.Redrive, error) {
	raw, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("write the request of a redrive: %w", err)
	}
	r := &storage.Redrive{ID: redrivePrefix + ulid.Make().String(), Tenant: p.Tenant, Request: raw, Rate: rate, RequestedBy: p.Actor()}
	if err := store.CreateRedrive(ctx, r, items, once, storage.Change{Actor: p.Actor(), Action: actionRedriven}); err != nil {
		return nil, err
	}
	a.redrive.kick()
	return r, nil
}

// choice is the letters of a redrive, with what is known of them beforehand.
type choice struct {
	items   []storage.RedriveItem
	unknown []explainedItem // ids that are no letters of the tenant
}

// document is the answer to a dry run.
func (c *choice) document(rate int) redriveDocument {
	out := redriveDocument{State: "dry_run", Total: len(c.items), Rate: rate, Explained: c.unknown}
	for range c.unknown {
		out.count(skippedUnknown)
	}
	for _, i := range c.items {
		if i.State != storage.ItemSkipped {
			continue
		}
		out.Skipped++
		out.count(i.Reason)
		if len(out.Explained) < mostExplained {
			out.Explained = append(out.Explained, explainedOf(i))
		}
	}
	out.Left = out.Total - out.Skipped
	return out
}

func (d *redriveDocument) count(reason string) {
	if d.Reasons == nil {
		d.Reasons = map[string]int{}
	}
	d.Reasons[reason]++
}

func explainedOf(i storage.RedriveItem) explainedItem {
	return explainedItem{ID: history.DeadLetterID(i.Partition, i.Offset), State: i.State, Reason: i.Reason, Detail: i.Detail}
}

// lettersOf finds the letters that a request means, and decides which of them are not to be put back.
func (a *apiSet) lettersOf(ctx context.Context, store *storage.Store, p auth.Principal, request *redriveRequest) (*choice, error) {
	rows, err := a.rows()
	if err != nil {
		return nil, err
	}
	c := &choice{items: []storage.RedriveItem{}}
	states := map[string]string{} // of subscriptions
	add := func(letters []*history.DeadLetter) error {
		for _, l := range letters {
			item := storage.RedriveItem{Partition: l.Partition, Offset: l.Offset, DeadAt: l.DeadAt, State: storage.ItemWaiting}
			reason, detail := unredrivable(l)
			if reason == "" {
				state, known := states[l.SubscriptionID]
				if !known {
					if state, err = stateOf(ctx, store, l.Tenant, l.SubscriptionID); err != nil {
						return err
					}
					states[l.SubscriptionID] = state
				}
				if reason = inactive(state); reason != "" {
					detail = inactiveDetail(l.SubscriptionID, state)
				}
			}
			if reason != "" {
				item.State, item.Reason, item.Detail = storage.ItemSkipped, reason, detail
			}
			c.items = append(c.items, item)
		}
		return nil
	}
	if request.Filter == nil {
		letters, err := rows.DeadLettersOf(ctx, tenantsOf(p), request.IDs)
		if err != nil {
			return nil, err
		}
		if len(letters) == 0 && len(request.IDs) == 1 {
			return nil, storage.ErrNotFound
		}
		for _, id := range request.IDs {
			if !slices.ContainsFunc(letters, func(l *history.DeadLetter) bool { return l.ID() == id }) {
				c.unknown = append(c.unknown, explainedItem{ID: id, State: storage.ItemSkipped, Reason: skippedUnknown, Detail: "there is no such dead letter in your tenant"})
			}
		}
		return c, add(letters)
	}
	filter := request.Filter.chosen()
	var after history.DeadCursor
	for {
		letters, err := rows.DeadLetters(ctx, []string{p.Tenant}, filter, after, redriveStep)
		if err != nil {
			return nil, err
		}
		if err := add(letters); err != nil {
			return nil, err
		}
		if len(c.items) > mostRedriven {
			return nil, refuse(http.StatusUnprocessableEntity, fmt.Sprintf("the filter chooses more than %d dead letters, which is what one redrive takes", mostRedriven),
				problem.Fault{Pointer: problem.Pointer("/filter"), Detail: "narrow it by since and until"})
		}
		if len(letters) < redriveStep {
			return c, nil
		}
		after = letters[len(letters)-1].Cursor()
	}
}

// stateOf is the state of a subscription; "deleted" where there is none.
func stateOf(ctx context.Context, store *storage.Store, tenant, id string) (string, error) {
	sub, err := store.Subscription(ctx, tenant, id)
	if errors.Is(err, storage.ErrNotFound) {
		return "deleted", nil
	}
	if err != nil {
		return "", err
	}
	return string(sub.State), nil
}

// inactive is the reason not to send to a subscription in a state; "" where it gets deliveries.
func inactive(state string) string {
	if state == string(subscription.StateActive) {
		return ""
	}
	return "subscription_" + state
}

func inactiveDetail(id, state string) string {
	if state == "deleted" {
		return "the subscription " + id + " is deleted"
	}
	return "the subscription " + id + " is " + state + ": activate it first"
}

// explain adds why letters of a redrive were not put back.
func (a *apiSet) explain(ctx context.Context, store *storage.Store, out *redriveDocument) error {
	reasons, err := store.RedriveReasons(ctx, out.ID)
	if err != nil {
		return err
	}
	items, err := store.RedriveExplained(ctx, out.ID, mostExplained)
	if err != nil {
		return err
	}
	if len(reasons) > 0 {
		out.Reasons = reasons
	}
	for _, i := range items {
		out.Explained = append(out.Explained, explainedOf(i))
	}
	return nil
}

func (a *apiSet) listRedrives(ctx context.Context, store *storage.Store, p auth.Principal, in *ListInput) (*manyRedrives, error) {
	before, err := in.before()
	if err != nil {
		return nil, err
	}
	found, err := store.Redrives(ctx, p.Tenant, before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	docs := make([]redriveDocument, len(found))
	for i := range found {
		docs[i] = documentOfRedrive(&found[i])
	}
	return &manyRedrives{page(docs, in.Limit, func(d redriveDocument) string { return d.ID })}, nil
}

func (a *apiSet) getRedrive(ctx context.Context, store *storage.Store, p auth.Principal, in *RedriveID) (*oneRedrive, error) {
	r, err := store.Redrive(ctx, p.Tenant, in.ID)
	if err != nil {
		return nil, err
	}
	out := documentOfRedrive(&r)
	if err := a.explain(ctx, store, &out); err != nil {
		return nil, err
	}
	return &oneRedrive{out}, nil
}

func (a *apiSet) cancelRedrive(ctx context.Context, store *storage.Store, p auth.Principal, in *actOnRedrive) (*oneRedrive, error) {
	if err := onlyMembers(in.RawBody); err != nil {
		return nil, err
	}
	r, err := store.CancelRedrive(ctx, p.Tenant, in.ID, storage.Change{Actor: p.Actor(), Action: actionCancelled})
	if err != nil {
		return nil, err
	}
	return &oneRedrive{documentOfRedrive(&r)}, nil
}
