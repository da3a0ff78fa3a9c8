package subscription

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// largeSample is an event of nearly a megabyte: a list of 100,000 numbers, a map of 50,000 members and a long text.
func largeSample() map[string]any {
	list, object := make([]any, 100_000), make(map[string]any, 50_000)
	for i := range list {
		list[i] = int64(i + 10)
	}
	for i := range 50_000 {
		object[fmt.Sprintf("k%d", i)] = int64(i)
	}
	return map[string]any{"type": "call.ended", "data": map[string]any{"list": list, "map": object, "five": int64(5), "long": strings.Repeat("ab ", 100_000)}}
}

func runaways() []string {
	wide := strings.TrimSuffix(strings.Repeat("i == event.data.five || ", 80), " || ")
	return []string{
		"event.data.list.exists(i, i == 5)",
		"event.data.list.exists(i, " + wide + ")",
		"event.data.list.map(i, i + 1).size() == 5",
		"event.data.list.filter(i, i > 5).size() == 5",
		"event.data.list.all(i, event.data.map.exists(k, k == 'none') || true)",
		"event.data.list.exists(i, event.data.list == event.data.map)",
		"event.data.list.exists(i, {'a': event.data.map} == {'a': event.data.map} && false)",
		"event.data.list.exists(i, [event.data.map] == [event.data.map] && false)",
		"event.data.list.exists(i, event.data.map in [1, event.data.five])",
		"event.data.list.exists(i, event.data.long.split('').size() == 5)",
		"event.data.list.exists(i, event.data.long.lowerAscii() == 'x')",
		"event.data.list.exists(i, event.data.long.contains('x'))",
		"event.data.list.exists(i, event.data.long.reverse() == 'x')",
		"event.data.list.exists(i, event.data.long.trim() == 'x')",
		"event.data.list.exists(i, event.data.long.charAt(5) == 'x')",
		"event.data.list.exists(i, event.data.long.matches('x.*y'))",
		"event.data.list.exists(i, base64.encode(bytes(event.data.long)) == 'x')",
		"event.data.list.exists(i, strings.quote(event.data.long) == 'x')",
		"event.data.list.exists(i, event.data.long + event.data.long == 'x')",
		"event.data.list.exists(i, [i, i, i, i, i, i, i, i, i, i, i, i].size() == 5)",
		"event.data.list.exists(i, string(i) == 'x')",
		"event.data.list.exists(i, event.data.list.exists(j, event.data.list.exists(k, i + j == k - 100000000)))",
	}
}

func BenchmarkRunaway(b *testing.B) {
	event := largeSample()
	for _, expr := range runaways() {
		f, err := CompileFilter(expr)
		require.NoError(b, err, expr)
		b.Run(shorten(expr)[:min(60, len(expr))], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f.match(event, nil)
			}
		})
	}
}

// Whatever a filter does at each step, its budget ends it: without it most of these took minutes.
func TestRunawaysEndByTheirBudget(t *testing.T) {
	event := largeSample()
	for _, expr := range runaways() {
		f, err := CompileFilter(expr)
		require.NoError(t, err, expr)
		matched, reason, detail := f.match(event, nil)
		require.False(t, matched, expr)
		require.Equal(t, ReasonFilterError, reason, expr)
		require.Regexp(t, "takes too long|hold more than", detail, expr)
	}
}

// All runaways once, one after another.
func BenchmarkRunaways(b *testing.B) {
	event := largeSample()
	var filters []*Filter
	for _, expr := range runaways() {
		f, err := CompileFilter(expr)
		require.NoError(b, err, expr)
		filters = append(filters, f)
	}
	for b.Loop() {
		for _, f := range filters {
			f.match(event, nil)
		}
	}
}

// Many filters that run away take about what a few take, plain ones beside them are decided, and the same event is decided
// the same again.
func TestFiltersOfOneEventShareAnAllowance(t *testing.T) {
	event := largeSample()
	runaway, err := CompileFilter("event.data.list.exists(i, i == 5)")
	require.NoError(t, err)
	plain, err := CompileFilter("event.type == 'call.ended' && event.data.five == 5")
	require.NoError(t, err)
	decide := func() (details []string, spent int) {
		var a Allowance
		for range 100 {
			_, reason, detail := runaway.match(event, &a)
			require.Equal(t, ReasonFilterError, reason)
			details = append(details, detail)
			matched, _, detail := plain.match(event, &a)
			require.True(t, matched, detail)
		}
		return details, a.spent
	}
	details, spent := decide()
	require.Equal(t, "the filter takes too long on this event", details[0])
	require.Equal(t, "the filters of all subscriptions together take too long on this event", details[99])
	require.Less(t, spent, 7*expressionCost)
	again, _ := decide()
	require.Equal(t, details, again)
}
