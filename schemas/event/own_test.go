package event

import (
	"testing"
	"time"
)

// What is told twice, because somebody died in between, is one event; what is told of something else is another.
func TestOwnEventsAreNamedByTheirOccasion(t *testing.T) {
	at := time.Date(2026, 1, 20, 10, 0, 0, 123456789, time.FixedZone("", 3600))
	own := func(eventType string, occasion ...string) *Event {
		e, err := NewOwn(eventType, "acme", at, map[string]any{"subscription_id": "sub_1", "http_status": 410}, occasion...)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := own(TypeDisabled, "sub_1", "3")
	want := `{"id":"` + e.ID + `","type":"endpoint.disabled","time":"2026-01-20T09:00:00.123456Z","tenant":"acme","source":"callstream","data":{"subscription_id":"sub_1","http_status":410}}`
	if got := string(e.AppendJSON(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if again := own(TypeDisabled, "sub_1", "3"); again.ID != e.ID {
		t.Error("the same occasion makes another id")
	}
	for _, other := range []*Event{own(TypeRecovered, "sub_1", "3"), own(TypeDisabled, "sub_1", "4"), own(TypeDisabled, "sub_13")} {
		if other.ID == e.ID {
			t.Errorf("%s has the id of another occasion", other.AppendJSON(nil))
		}
	}
	if _, err := NewOwn(TypeDisabled, "acme", at, map[string]any{"http_status": "x"}); err == nil {
		t.Error("data that the catalogue refuses was taken")
	}
}
