package console

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/callstream/callstream/subscription"
)

// changedMembers are the places where two versions of a subscription differ, as JSON pointers. They say what changed,
// never from what or to what: a URL or a header's value may hold a token.
func changedMembers(before, after *subscription.Subscription) ([]string, error) {
	old, err := treeOf(before)
	if err != nil {
		return nil, err
	}
	now, err := treeOf(after)
	if err != nil {
		return nil, err
	}
	for _, bookkeeping := range []string{"version", "created_at", "updated_at"} {
		delete(old, bookkeeping)
		delete(now, bookkeeping)
	}
	places := differences(nil, "", old, now)
	for _, sealed := range []map[string]string{before.Sealed, after.Sealed} {
		for field := range sealed {
			// A secret reads {"set": true} whatever it is; what is sealed tells.
			if place := "/" + strings.ReplaceAll(field, ".", "/"); before.Sealed[field] != after.Sealed[field] {
				places = append(places, place)
			}
		}
	}
	slices.Sort(places)
	return slices.Compact(places), nil
}

func treeOf(sub *subscription.Subscription) (map[string]any, error) {
	raw, err := json.Marshal(sub)
	if err != nil {
		return nil, fmt.Errorf("write the subscription as JSON: %w", err)
	}
	return subscription.ParseObject(raw)
}

// differences appends the places at and below one where two values differ. Arrays are compared whole.
func differences(places []string, at string, a, b any) []string {
	one, isObject := a.(map[string]any)
	other, both := b.(map[string]any)
	if !isObject || !both {
		if !reflect.DeepEqual(a, b) {
			places = append(places, at)
		}
		return places
	}
	for name, v := range one {
		places = differences(places, at+"/"+escapePointer(name), v, other[name])
	}
	for name, v := range other {
		if _, known := one[name]; !known {
			places = differences(places, at+"/"+escapePointer(name), nil, v)
		}
	}
	return places
}
