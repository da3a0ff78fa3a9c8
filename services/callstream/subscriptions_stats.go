package callstream

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// statsView are a subscription's figures.
type statsView struct {
	SubscriptionID string           `json:"subscription_id"`
	Window         string           `json:"window"`
	Deliveries     map[string]int64 `json:"deliveries"`
	SuccessRate    *float64         `json:"success_rate"`
	Reasons        map[string]int64 `json:"reasons"`
	Failures       map[string]int64 `json:"failures"`
	Via            map[string]int64 `json:"via"`
	Endpoint       figuresView      `json:"endpoint_ms"`
	Latency        figuresView      `json:"latency_ms"`
	Backlog        map[string]int64 `json:"backlog"`
}

// figuresView are percentiles in milliseconds.
type figuresView struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
}

func (f figuresView) String() string {
	if f.Count == 0 {
		return ""
	}
	ms := func(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }
	return fmt.Sprintf("half within %s ms, 90 %% %s ms, 99 %% %s ms", ms(f.P50), ms(f.P90), ms(f.P99))
}

func newSubscriptionsStats(api *apiFlags, out *output) *cobra.Command {
	var window string
	cmd := &cobra.Command{
		Use:   "stats ID",
		Short: "Deliveries, failures, latency and what waits",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := subscriptionPath(args[0]) + "/stats?" + url.Values{"window": {window}}.Encode()
			return exchange{method: http.MethodGet, path: path, show: printStats}.run(cmd, api, out)
		},
	}
	cmd.Flags().StringVar(&window, "window", "24h", "how far back, 1m to 30d")
	return cmd
}

func printStats(w io.Writer, raw json.RawMessage) error {
	var v statsView
	if err := json.Unmarshal(raw, &v); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	rate := ""
	if v.SuccessRate != nil {
		rate = strconv.FormatFloat(*v.SuccessRate*100, 'f', 2, 64) + " %"
	}
	return pairs(w,
		[2]string{"subscription", v.SubscriptionID}, [2]string{"events of the last", v.Window}, [2]string{"deliveries", amounts(v.Deliveries)},
		[2]string{"success", rate}, [2]string{"reasons", amounts(v.Reasons)}, [2]string{"failing with", amounts(v.Failures)},
		[2]string{"sent to", amounts(v.Via)}, [2]string{"endpoint took", v.Endpoint.String()}, [2]string{"from acceptance", v.Latency.String()}, [2]string{"waiting now", amounts(v.Backlog)},
	)
}

// amounts lists what there is some of, the most first: "12 delivered, 1 dead".
func amounts(m map[string]int64) string {
	var names []string
	for name, n := range m {
		if n != 0 {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(m[b], m[a]), cmp.Compare(a, b)) })
	for i, name := range names {
		names[i] = thousands(m[name]) + " " + name
	}
	return cmp.Or(strings.Join(names, ", "), "none")
}
