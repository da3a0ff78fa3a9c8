package payload

import (
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/subscription"
)

// S2-15: with GET the fields are in the query, in the order of the body and with nothing but what RFC 3986 lets stand
// there; net/url is the second opinion.
func TestGetPutsTheFieldsIntoTheQuery(t *testing.T) {
	r, err := renderer(t, subscription.ProfileDialer, "GET").Render(parse(t, []byte(
		`{"type":"call.ended","call_id":"c&=+ /?#é🙂","data":{"from_number":"+1 (555)","tags":["a","b,c"],"fields":{"x.y":{"z":null}},"score":8.50,"risk_flag":false,`+
			`"mixed":[1,{"a":2}],"none":[],"empty":{},"mine":[true,null,1.0,"t"]}}`)))
	require.NoError(t, err)
	assert.Nil(t, r.Body)
	assert.Equal(t, "event=callEnded&callId=c%26%3D%2B%20%2F%3F%23%C3%A9%F0%9F%99%82&fromNumber=%2B1%20%28555%29&score=8.5&tags=a&tags=b%2Cc&riskFlag=false"+
		"&fields.x.y.z=null&mixed=%5B1%2C%7B%22a%22%3A2%7D%5D&none=%5B%5D&empty=%7B%7D&mine=true&mine=null&mine=1.0&mine=t", r.Query)
	values, err := url.ParseQuery(r.Query)
	require.NoError(t, err)
	assert.Equal(t, "c&=+ /?#é🙂", values.Get("callId"))
	assert.Equal(t, []string{"a", "b,c"}, values["tags"])

	whole, err := renderer(t, subscription.ProfileStandard, "GET").Render(load(t, "undeclared"))
	require.NoError(t, err)
	assert.Regexp(t, regexp.MustCompile(`^([A-Za-z0-9._~-]|%[0-9A-F]{2})*(=([A-Za-z0-9._~-]|%[0-9A-F]{2})*)?(&([A-Za-z0-9._~-]|%[0-9A-F]{2})*=([A-Za-z0-9._~-]|%[0-9A-F]{2})*)*$`), whole.Query)
}

// S2-13, S2-15: additional data is in the query too, repeats no name of the event's, and is not mixed with its objects.
func TestGetHasExtraInTheQuery(t *testing.T) {
	extra := withExtra(t, `{"env":"prod","callId":"x","team":{"id":7},"a":{"c":3},"a.b":1,"tags":["x"]}`)
	r, err := renderer(t, subscription.ProfileDialer, "GET", extra).Render(parse(t, []byte(
		`{"type":"call.ended","call_id":"c","data":{"a":{"b":2},"tags":["t"]}}`)))
	require.NoError(t, err)
	assert.Equal(t, "event=callEnded&callId=c&tags=t&a.b=2&env=prod&team.id=7", r.Query)
}

func TestAQueryHasALimit(t *testing.T) {
	render := func(data string) error {
		_, err := renderer(t, subscription.ProfileRaw, "GET").Render(parse(t, []byte(`{"type":"call.ended","call_id":"c","data":`+data+`}`)))
		return err
	}
	exact := strings.Repeat("n", maxQuery-len("notes="))
	assert.NoError(t, render(`{"notes":"`+exact+`"}`))
	assert.ErrorIs(t, render(`{"notes":"`+exact+`n"}`), ErrQueryTooLong)
	// A long name is repeated for each member below it and each element: it must not multiply.
	long := strings.Repeat("n", 60_000)
	assert.ErrorIs(t, render(`{"`+long+`":[`+strings.Repeat("1,", 100_000)+`1]}`), ErrQueryTooLong)
	assert.ErrorIs(t, render(`{"`+long+`":{"`+long+`":{}}}`), ErrQueryTooLong)
}

// Only a custom payload can be something else than an object; there is no name then to give it in a query.
func TestAQueryNeedsAnObject(t *testing.T) {
	for _, template := range []string{`"text"`, `[1, 2]`, `7`, `null`} {
		r := renderer(t, subscription.ProfileCustom, "GET", func(p *subscription.Payload) { p.Template = template })
		_, err := r.Render(load(t, "call"))
		assert.ErrorIs(t, err, ErrNoObject, template)
	}
}
