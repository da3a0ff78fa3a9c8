package problem_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/problem"
)

func TestWrite(t *testing.T) {
	p := problem.New(http.StatusUnprocessableEntity, "2 faults", problem.Fault{Detail: "it must be a number", Pointer: "#/2/data/score"},
		problem.Fault{Detail: "it is missing", Line: 3}).With("ids", []string{"evt_1"}).With("status", 200)
	p.RetryAfter = 1500 * time.Millisecond
	p.Header = http.Header{"Www-Authenticate": {"Bearer"}}
	w := httptest.NewRecorder()
	problem.Write(w, p)
	require.Equal(t, 422, w.Code)
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	require.Equal(t, "2", w.Header().Get("Retry-After"))
	require.Equal(t, "Bearer", w.Header().Get("WWW-Authenticate"))
	require.Equal(t, `{"type":"about:blank","title":"Unprocessable Entity","status":422,"detail":"2 faults","errors":[`+
		`{"detail":"it must be a number","pointer":"#/2/data/score"},{"detail":"it is missing","line":3}],"ids":["evt_1"]}`+"\n", w.Body.String())

	var back problem.Problem
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &back))
	require.Equal(t, 422, back.Status)
	require.Equal(t, p.Errors, back.Errors)
	require.Equal(t, []any{"evt_1"}, back.Extensions["ids"])
	require.Equal(t, "422 Unprocessable Entity: 2 faults; it must be a number at #/2/data/score; it is missing", p.Error())
}

func TestAnUnwritableExtensionKeepsTheStatus(t *testing.T) {
	w := httptest.NewRecorder()
	problem.Write(w, problem.New(http.StatusBadRequest, "x").With("f", func() {}))
	require.Equal(t, 400, w.Code)
	require.JSONEq(t, `{"type":"about:blank","status":400}`, w.Body.String())
}

func TestPointer(t *testing.T) {
	for in, want := range map[string]string{
		"": "#", "/0/data/score": "#/0/data/score", "/a b": "#/a%20b", "/ü": "#/%C3%BC", "/a~1b": "#/a~1b", "/\"x\"%": "#/%22x%22%25",
		"/\xff": "#/%FF",
	} {
		require.Equal(t, want, problem.Pointer(in))
	}
}
