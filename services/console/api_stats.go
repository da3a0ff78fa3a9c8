package console

import (
	"context"
	"net/http"
	"time"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/services/console/history"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
)

// maxWindow is the longest time that figures are about.
const maxWindow = 30 * 24 * time.Hour

// laneRetry stands in the figures for all retry tiers.
const laneRetry = "retry"

type statsInput struct {
	SubscriptionID
	Window string `query:"window" maxLength:"20" default:"24h" doc:"how far back events were accepted: 1m to 30d"`
}

// figures are the percentiles of a duration, in milliseconds.
type figures struct {
	Count int     `json:"count" doc:"measurements: the newest 10,000 at most"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
}

func figuresOf(p history.Percentiles) figures {
	milliseconds := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return figures{p.Count, milliseconds(p.P50), milliseconds(p.P90), milliseconds(p.P99)}
}

// subscriptionStats are what became of the events of a window for one subscription.
type subscriptionStats struct {
	SubscriptionID string                `json:"subscription_id"`
	Window         subscription.Duration `json:"window"`
	Since          time.Time             `json:"since"`
	Deliveries     map[string]int64      `json:"deliveries" doc:"by state: queued, delivered, retrying, dead, skipped"`
	SuccessRate    *float64              `json:"success_rate,omitempty" doc:"delivered of delivered and dead, 0 to 1; absent where there is neither"`
	Reasons        map[string]int64      `json:"reasons" doc:"the skipped and dead ones by reason"`
	Failures       map[string]int64      `json:"failures" doc:"those whose newest request failed, by class of the error"`
	Via            map[string]int64      `json:"via" doc:"those that were sent, by where the newest request went: primary, fallback"`
	Endpoint       figures               `json:"endpoint_ms" doc:"how long the endpoint took for what was delivered"`
	Latency        figures               `json:"latency_ms" doc:"from acceptance to the end of the endpoint's answer, replays left out"`
	Backlog        map[string]int64      `json:"backlog" doc:"what waits now, by lane; retry is all retry tiers"`
}

type oneStats struct{ Body subscriptionStats }

func (a *apiSet) registerStats() {
	register(a, operation{id: "get-subscription-stats", method: http.MethodGet, path: "/v1/subscriptions/{id}/stats", scope: auth.ScopeDeliveriesRead,
		summary: "What became of a subscription's deliveries", errors: []int{http.StatusNotFound, http.StatusUnprocessableEntity}}, a.stats)
}

func (a *apiSet) stats(ctx context.Context, store *storage.Store, p auth.Principal, in *statsInput) (*oneStats, error) {
	window, err := subscription.ParseDuration(in.Window)
	if d := time.Duration(window); err != nil || d < time.Minute || d > maxWindow {
		return nil, refuse(http.StatusUnprocessableEntity, `window: want a duration of "1m" to "30d"`)
	}
	sub, err := store.Subscription(ctx, p.Tenant, in.ID)
	if err != nil {
		return nil, err
	}
	rows, err := a.rows()
	if err != nil {
		return nil, err
	}
	since := a.deps.Now().UTC().Add(-time.Duration(window))
	stats, err := rows.Stats(ctx, p.Tenant, sub.ID, since)
	if err != nil {
		return nil, err
	}
	out := subscriptionStats{
		SubscriptionID: sub.ID, Window: window, Since: since, Deliveries: map[string]int64{}, Reasons: stats.Reasons, Failures: stats.Failures, Via: stats.Via,
		Endpoint: figuresOf(stats.Duration), Latency: figuresOf(stats.Latency), Backlog: map[string]int64{sub.Lane: stats.Queued, laneRetry: stats.Retrying},
	}
	for _, state := range history.States() {
		out.Deliveries[state] = stats.States[state]
	}
	delivered, dead := stats.States[history.StateDelivered], stats.States[history.StateDead]
	if ended := delivered + dead; ended > 0 {
		rate := float64(delivered) / float64(ended)
		out.SuccessRate = &rate
	}
	return &oneStats{out}, nil
}
