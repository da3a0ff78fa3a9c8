package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/hooktest"
)

// capturedAnswer is one as the API shows it.
type capturedAnswer struct {
	ID         string `json:"id"`
	Type       string `json:"type"`
	DeliveryID string `json:"delivery_id"`
	HTTPStatus int    `json:"http_status"`
	Valid      bool   `json:"valid"`
	Problem    string `json:"problem"`
	Body       string `json:"body"`
	Answer     struct {
		Success bool
		Contact struct{ ID string }
	} `json:"answer"`
}

// answersOf opens the stream of a call's captured answers, once the call is known.
func (tn tenant) answersOf(t *testing.T, call string) func() capturedAnswer {
	t.Helper()
	path := "/v1/calls/" + call + "/responses"
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	t.Cleanup(cancel)
	var lines *bufio.Scanner
	eventually(t, "the call is known", func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, tn.p.base(http.MethodGet, path)+path, nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+tn.key)
		req.Header.Set("Accept", "text/event-stream")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		if res.StatusCode != http.StatusOK {
			res.Body.Close()
			return fmt.Errorf("status %d", res.StatusCode)
		}
		t.Cleanup(func() { res.Body.Close() })
		lines = bufio.NewScanner(res.Body)
		return nil
	})
	return func() capturedAnswer {
		t.Helper()
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				var a capturedAnswer
				require.NoError(t, json.Unmarshal([]byte(data), &a))
				return a
			}
		}
		t.Fatalf("the stream ended: %v", lines.Err())
		return capturedAnswer{}
	}
}

// S2-07, S2-08, S1-20: what a dialer's endpoint answers is on the agent's screen as the phone rings, and can be looked up.
func showsAnswers(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	const good = `{"success":true,"contact":{"id":"7","crmType":"CRM","fields":[{"title":"Name","value":"John Doe"}]}}`
	hook := hooktest.Start(t, hooktest.Options{Answer: func(q *hooktest.Request) hooktest.Answer {
		if strings.Contains(string(q.Body), "callRinging") {
			return hooktest.Answer{Status: 200, Body: good}
		}
		return hooktest.Answer{Status: 200, Body: `{"success":"yes"}`}
	}})
	tn.subscribe(object{"url": hook.URL(), "events": []string{"call.started", "call.ringing"}, "capture_response": true, "payload": object{"profile": "dialer"}})
	tn.subscribe(object{"url": hook.URL(), "events": []string{"call.started"}}) // which keeps nothing
	tn.post([]object{{"type": "call.started", "call_id": "rs-1"}, {"type": "call.started", "call_id": "rs-2"}})
	next := tn.answersOf(t, "rs-1")
	first := next()
	assert.Equal(t, "call.started", first.Type)
	assert.False(t, first.Valid)
	assert.Equal(t, "/success: want true or false", first.Problem)
	assert.JSONEq(t, `{"success":"yes"}`, first.Body)

	tn.post(object{"type": "call.ringing", "call_id": "rs-1"})
	second := next()
	assert.Equal(t, "call.ringing", second.Type)
	assert.True(t, second.Valid, second.Problem)
	assert.Equal(t, "7", second.Answer.Contact.ID)

	list := decode[struct{ Items []capturedAnswer }](t, tn.must(http.StatusOK, http.MethodGet, "/v1/calls/rs-1/responses", nil))
	require.Len(t, list.Items, 2)
	assert.Equal(t, []string{second.ID, first.ID}, []string{list.Items[0].ID, list.Items[1].ID})
	tn.must(http.StatusNotFound, http.MethodGet, "/v1/calls/rs-none/responses", nil)
}
