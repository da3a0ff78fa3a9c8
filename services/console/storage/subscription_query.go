package storage

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/callstream/callstream/subscription"
)

// SubscriptionQuery chooses from a tenant's subscriptions. Empty fields choose everything.
type SubscriptionQuery struct {
	// Text is looked for, in any case, in the name, the id, the events and the host of the URL.
	Text  string
	State subscription.State
	// Event keeps the subscriptions to events of this type.
	Event string
	// ByPosition orders by position, then newest first; else it is newest first.
	ByPosition bool
	After      *SubscriptionPlace
	Limit      int
}

// SubscriptionPlace is where a page of subscriptions ended.
type SubscriptionPlace struct {
	Position int
	ID       string
}

// listStep is how many rows a list reads at once.
const listStep = 500

// Subscriptions returns a tenant's subscriptions that q chooses. Ids begin with their time, so their order is that of
// creation.
func (s *Store) Subscriptions(ctx context.Context, tenant string, q SubscriptionQuery) ([]*subscription.Subscription, error) {
	list := []*subscription.Subscription{}
	after := q.After
	for {
		rows, err := s.subscriptionRows(ctx, tenant, q, after)
		if err != nil {
			return nil, fmt.Errorf("list subscriptions: %w", err)
		}
		for _, sub := range rows {
			if q.matches(sub) {
				list = append(list, sub)
			}
			if len(list) == q.Limit {
				return list, nil
			}
		}
		if len(rows) < listStep {
			return list, nil
		}
		last := rows[len(rows)-1]
		after = &SubscriptionPlace{last.Position, last.ID}
	}
}

func (s *Store) subscriptionRows(ctx context.Context, tenant string, q SubscriptionQuery, after *SubscriptionPlace) ([]*subscription.Subscription, error) {
	query, args := selectSubscription+` WHERE tenant = ? AND deleted_at = 0`, []any{tenant}
	if q.State != "" {
		query, args = query+` AND state = ?`, append(args, string(q.State))
	}
	order := ` ORDER BY id DESC LIMIT ?`
	switch {
	case q.ByPosition:
		order = ` ORDER BY position, id DESC LIMIT ?`
		if after != nil {
			query, args = query+` AND (position > ? OR (position = ? AND id < ?))`, append(args, after.Position, after.Position, after.ID)
		}
	case after != nil:
		query, args = query+` AND id < ?`, append(args, after.ID)
	}
	step := listStep
	if q.Text == "" && q.Event == "" {
		step = min(step, q.Limit) // every row is in the answer
	}
	rows, err := s.Query(ctx, query+order, append(args, step)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []*subscription.Subscription
	for rows.Next() {
		sub, err := scanSubscription(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, sub)
	}
	return list, rows.Err()
}

// matches says what SQL does not: patterns of events and the host of a URL are this package's neighbours' to read.
func (q SubscriptionQuery) matches(sub *subscription.Subscription) bool {
	if q.Event != "" && !sub.MatchesType(q.Event) {
		return false
	}
	text := strings.ToLower(q.Text)
	in := func(s string) bool { return strings.Contains(strings.ToLower(s), text) }
	return text == "" || in(sub.Name) || in(sub.ID) || slices.ContainsFunc(sub.Events, in) || in(host(sub.URL)) || in(host(sub.PendingURL))
}

// host is all that a search may match of a URL: path and query may hold a token.
func host(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Host
}
