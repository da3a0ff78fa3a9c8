package event

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// OwnSource is the source of callstream's own events.
const OwnSource = "callstream"

// The types of callstream's own events that are made of a subscription's life.
const (
	TypeExhausted = "delivery.exhausted"
	TypeVerified  = "endpoint.verified"
	TypeDisabled  = "endpoint.disabled"
	TypeRecovered = "endpoint.recovered"
)

// NewOwn makes one of callstream's own events, of what happened at a time. Its id follows from the type and from what
// identifies the occasion, so that whoever makes it a second time makes the same event.
func NewOwn(eventType, tenant string, at time.Time, data map[string]any, occasion ...string) (*Event, error) {
	raw, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("write the data of %s as JSON: %w", eventType, err)
	}
	sum := sha256.Sum256([]byte(eventType + "\x00" + strings.Join(occasion, "\x00")))
	e := &Event{ID: "evt_" + hex.EncodeToString(sum[:16]), Type: eventType, Tenant: tenant, Source: OwnSource, Time: at.UTC().Truncate(time.Microsecond), IngestedAt: at}
	if err := e.SetData(raw); err != nil {
		return nil, fmt.Errorf("make a %s: %w", eventType, err)
	}
	return e, nil
}
