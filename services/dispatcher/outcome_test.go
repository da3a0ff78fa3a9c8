package dispatcher

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/outbound"
)

func failed(class egress.Class) result {
	return result{err: fmt.Errorf("sending: %w", &egress.Error{Class: class, Op: "request", Err: errors.New("cause")})}
}

// S0-20, S3-12: any 2xx is success, whatever becomes of its body; what else is retried or dead is told by status and class.
func TestJudge(t *testing.T) {
	schedule := []time.Duration{time.Second, time.Minute}
	status := func(s int) result { return result{status: s} }
	retryOn := func(on ...string) subscription.Retry { return subscription.Retry{RetryOn: on} }
	for name, test := range map[string]struct {
		result  result
		attempt int
		retry   subscription.Retry
		want    verdict
	}{
		"200":            {status(200), 1, subscription.Retry{}, verdict{outcome: outcomeDelivered}},
		"204":            {status(204), 1, subscription.Retry{}, verdict{outcome: outcomeDelivered}},
		"299, cut short": {result{status: 299, err: errors.New("cut")}, 1, subscription.Retry{}, verdict{outcome: outcomeDelivered}},
		"301":            {status(301), 1, subscription.Retry{}, verdict{outcome: outcomeDead, reason: reasonRedirect}},
		"400":            {status(400), 1, subscription.Retry{}, verdict{outcome: outcomeDead, reason: reasonRejected}},
		"404":            {status(404), 1, subscription.Retry{}, verdict{outcome: outcomeDead, reason: reasonRejected}},
		"408":            {status(408), 1, subscription.Retry{}, verdict{outcome: outcomeRetry, reason: "http_4xx", delay: time.Second}},
		"425":            {status(425), 2, subscription.Retry{}, verdict{outcome: outcomeRetry, reason: "http_4xx", delay: time.Minute}},
		"429":            {status(429), 1, subscription.Retry{}, verdict{outcome: outcomeRetry, reason: "http_4xx", delay: time.Second}},
		"500":            {status(500), 1, subscription.Retry{}, verdict{outcome: outcomeRetry, reason: "http_5xx", delay: time.Second}},
		"503, the last":  {status(503), 3, subscription.Retry{}, verdict{outcome: outcomeDead, reason: reasonExhausted}},
		"410":            {status(410), 1, subscription.Retry{}, verdict{outcome: outcomeDead, reason: reasonGone, disable: true}},
		"410, retried":   {status(410), 1, retryOn("4xx"), verdict{outcome: outcomeDead, reason: reasonGone, disable: true}},
		"timeout":        {failed(egress.ClassTimeout), 1, subscription.Retry{}, verdict{outcome: outcomeRetry, reason: "timeout", delay: time.Second}},
		"dns":            {failed(egress.ClassDNS), 1, subscription.Retry{}, verdict{outcome: outcomeRetry, reason: "dns", delay: time.Second}},
		"refused":        {failed(egress.ClassRefused), 1, subscription.Retry{}, verdict{outcome: outcomeRetry, reason: "refused", delay: time.Second}},
		"blocked":        {failed(egress.ClassBlocked), 1, subscription.Retry{}, verdict{outcome: outcomeDead, reason: reasonBlocked}},
		"invalid":        {failed(egress.ClassInvalid), 1, subscription.Retry{}, verdict{outcome: outcomeDead, reason: reasonInvalid}},

		// P-15: without an access token nothing was sent, and a token that is refused is replaced.
		"no token":              {failed(outbound.ClassOAuth2), 1, retryOn("5xx"), verdict{outcome: outcomeRetry, reason: "oauth2", delay: time.Second}},
		"no token, the last":    {failed(outbound.ClassOAuth2), 3, subscription.Retry{}, verdict{outcome: outcomeDead, reason: reasonExhausted}},
		"401":                   {status(401), 1, subscription.Retry{}, verdict{outcome: outcomeDead, reason: reasonRejected}},
		"401 to a token":        {result{status: 401, tokenRefused: true}, 1, retryOn("5xx"), verdict{outcome: outcomeRetry, reason: "http_4xx", delay: time.Second}},
		"401 to a token, often": {result{status: 401, tokenRefused: true}, 3, subscription.Retry{}, verdict{outcome: outcomeDead, reason: reasonExhausted}},

		"404 asked for":          {status(404), 1, retryOn("404"), verdict{outcome: outcomeRetry, reason: "http_4xx", delay: time.Second}},
		"418 in a class":         {status(418), 1, retryOn("4xx"), verdict{outcome: outcomeRetry, reason: "http_4xx", delay: time.Second}},
		"302 in a class":         {status(302), 1, retryOn("3xx"), verdict{outcome: outcomeRetry, reason: "http_3xx", delay: time.Second}},
		"500 not asked for":      {status(500), 1, retryOn("429"), verdict{outcome: outcomeDead, reason: reasonRejected}},
		"timeout not asked for":  {failed(egress.ClassTimeout), 1, retryOn("connection"), verdict{outcome: outcomeDead, reason: reasonRejected}},
		"timeout asked for":      {failed(egress.ClassTimeout), 1, retryOn("timeout"), verdict{outcome: outcomeRetry, reason: "timeout", delay: time.Second}},
		"reset not asked for":    {failed(egress.ClassReset), 1, retryOn("timeout"), verdict{outcome: outcomeDead, reason: reasonRejected}},
		"reset asked for":        {failed(egress.ClassReset), 1, retryOn("connection"), verdict{outcome: outcomeRetry, reason: "reset", delay: time.Second}},
		"own schedule":           {status(500), 1, subscription.Retry{Schedule: []subscription.Duration{subscription.Duration(time.Hour)}}, verdict{outcome: outcomeRetry, reason: "http_5xx", delay: time.Hour}},
		"max attempts":           {status(500), 1, subscription.Retry{MaxAttempts: 1}, verdict{outcome: outcomeDead, reason: reasonExhausted}},
		"the last delay repeats": {status(500), 7, subscription.Retry{MaxAttempts: 9}, verdict{outcome: outcomeRetry, reason: "http_5xx", delay: time.Minute}},
	} {
		if got := judge(test.result, test.attempt, test.retry, schedule); got != test.want {
			t.Errorf("%s: got %+v, want %+v", name, got, test.want)
		}
	}
}
