package subscription

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration that JSON holds as people write it: "10s", "1h30m", "7d".
type Duration time.Duration

var errDuration = errors.New(`want a duration such as "10s", "5m", "24h" or "7d"`)

// ParseDuration reads what time.ParseDuration does, and days: "7d".
func ParseDuration(s string) (Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || n != n || n < 0 || n > 36500 {
			return 0, errDuration
		}
		return Duration(n * float64(24*time.Hour)), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errDuration
	}
	return Duration(d), nil
}

// String drops the zero units that time.Duration prints: "24h" instead of "24h0m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalJSON writes String.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads ParseDuration's forms.
func (d *Duration) UnmarshalJSON(raw []byte) error {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return errDuration
	}
	v, err := ParseDuration(s)
	*d = v
	return err
}

func (d *Duration) decode(dec *decoder, at pointer, v any) {
	s, ok := v.(string)
	if !ok {
		dec.fault(at, errDuration.Error())
		return
	}
	parsed, err := ParseDuration(s)
	if err != nil {
		dec.fault(at, err.Error())
		return
	}
	*d = parsed
}

// TTL is how long after its acceptance an event is worth sending: one duration, or one by event type with a default.
// The zero TTL never ends.
type TTL struct {
	Default Duration
	// ByType holds exact types and "family.*".
	ByType map[string]Duration
}

// IsZero says that no time to live was given.
func (t TTL) IsZero() bool { return t.Default == 0 && len(t.ByType) == 0 }

// For returns the time to live of an event type; 0 means that it does not expire. An exact type goes before its family,
// the family before the default.
func (t TTL) For(eventType string) time.Duration {
	if d, ok := t.ByType[eventType]; ok {
		return time.Duration(d)
	}
	if family, _, ok := strings.Cut(eventType, "."); ok {
		if d, ok := t.ByType[family+".*"]; ok {
			return time.Duration(d)
		}
	}
	return time.Duration(t.Default)
}

// MarshalJSON writes a string, or an object when the time differs by type.
func (t TTL) MarshalJSON() ([]byte, error) {
	if len(t.ByType) == 0 {
		return json.Marshal(t.Default)
	}
	m := make(map[string]Duration, len(t.ByType)+1)
	for k, v := range t.ByType {
		m[k] = v
	}
	if t.Default != 0 {
		m["default"] = t.Default
	}
	return json.Marshal(m)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *TTL) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && raw[0] == '"' {
		return t.Default.UnmarshalJSON(raw)
	}
	var m map[string]Duration
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	t.Default = m["default"]
	delete(m, "default")
	t.ByType = m
	return nil
}

func (t *TTL) decode(dec *decoder, at pointer, v any) {
	// Zero stands for a time to live that isn't given; one that is given as zero would end before it began.
	duration := func(at pointer, v any) (d Duration) {
		if d.decode(dec, at, v); d == 0 {
			between(dec, at, 0, minTTL, maxTTL)
		}
		return d
	}
	m, ok := v.(map[string]any)
	if !ok {
		t.Default = duration(at, v)
		return
	}
	t.ByType = make(map[string]Duration, len(m))
	for name, v := range m {
		switch {
		case v == nil:
		case name == "default":
			t.Default = duration(at.member(name), v)
		default:
			t.ByType[name] = duration(at.member(name), v)
		}
	}
}
