package scope_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/callstream/callstream/schemas/catalog"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/payload"
	"github.com/callstream/callstream/subscription/scope"
)

// registry gives each schema a number.
type registry struct{ schemas []string }

func (r *registry) SchemaByID(_ context.Context, id int) (string, error) { return r.schemas[id], nil }

func (r *registry) Register(_ context.Context, _, schema string) (int, error) {
	r.schemas = append(r.schemas, schema)
	return len(r.schemas) - 1, nil
}

// secret is one that is planted, and what must not be found of it.
type secret struct {
	text   string // as it is planted into strings and names
	number string // as it is planted as a JSON number; empty for one that can't be
	core   string // the digits of a number, in ASCII; else the text itself
}

func drawSecret(t *rapid.T) secret {
	digit := rapid.StringMatching(`[2-9]`)
	digits := func(n int) string {
		return rapid.StringMatching(fmt.Sprintf(`[1-9]{%d}`, n)).Draw(t, "digits")
	}
	switch rapid.SampledFrom([]string{"phone", "card", "ssn", "email", "expression"}).Draw(t, "secret") {
	case "phone":
		d := digit.Draw(t, "area") + digits(9)
		format := rapid.SampledFrom([]string{"+1 (%s) %s-%s", "+1-%s-%s-%s", "(%s) %s-%s", "%s-%s-%s", "%s.%s.%s", "%s %s %s", "1 %s %s %s", "tel:+1%s%s%s", "%s%s%s", "+1%s%s%s", "1%s%s%s"}).Draw(t, "format")
		number := d
		if rapid.Bool().Draw(t, "country") {
			number = "1" + d
		}
		return secret{text: fmt.Sprintf(format, d[:3], d[3:6], d[6:]), number: number, core: d}
	case "card":
		d := digit.Draw(t, "issuer") + digits(rapid.IntRange(11, 17).Draw(t, "length"))
		d += luhn(d)
		text := d
		if separator := rapid.SampledFrom([]string{"", " ", "-", " - ", "\u2011", "\u00a0"}).Draw(t, "separator"); separator != "" {
			text = ""
			for rest := d; rest != ""; {
				n := min(rapid.SampledFrom([]int{4, 4, 4, 6, 5}).Draw(t, "group"), len(rest))
				text, rest = text+separator+rest[:n], rest[n:]
			}
			text = text[len(separator):]
		}
		return secret{text: text, number: rapid.SampledFrom([]string{d, d + ".0", d + "e0", d[:1] + "." + d[1:] + fmt.Sprintf("E+%d", len(d)-1)}).Draw(t, "spelling"), core: d}
	case "ssn":
		d := digits(9)
		separator := rapid.SampledFrom([]string{"-", " "}).Draw(t, "separator")
		return secret{text: d[:3] + separator + d[3:5] + separator + d[5:], core: d}
	case "email":
		address := rapid.StringMatching(`[a-z]{2,8}(\.[a-z]{1,8})?(\+[a-z0-9]{1,4})?@[a-z]{2,8}\.(com|co\.uk|example)`).Draw(t, "address")
		return secret{text: address, core: address}
	default:
		word := rapid.StringMatching(`SECRET-[a-z]{8}`).Draw(t, "word")
		return secret{text: word, core: word}
	}
}

func luhn(digits string) string {
	sum := 0
	for i := range len(digits) {
		d := int(digits[len(digits)-1-i] - '0')
		if i%2 == 0 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return fmt.Sprint((10 - sum%10) % 10)
}

// everywhere are the rules that the secrets are planted against.
var everywhere = []string{"phone", "email", "payment", "ssn", `/SECRET-[a-z]+/`}

// planter draws the JSON of an event with secrets in it.
type planter struct {
	*rapid.T
	planted []secret
}

// string draws a string, now and then with a secret in it.
func (p *planter) string() string {
	around := rapid.StringMatching(`([A-Za-z,;:!?é日"\\{}<>\n]{0,6}[ ,;:!?日"\\{}<>\n])?`)
	before, after := around.Draw(p.T, "before"), around.Draw(p.T, "after")
	if rapid.IntRange(0, 2).Draw(p.T, "plant") == 0 {
		s := drawSecret(p.T)
		p.planted = append(p.planted, s)
		runes := []rune(after)
		slices.Reverse(runes)
		return before + p.wide(s.text) + string(runes)
	}
	return before + rapid.SampledFrom([]string{"", "plain", "2026-01-20T10:00:00.123Z", "550e8400-e29b-41d4-a716-446655440000", "1700000000.00011"}).Draw(p.T, "plain") + after
}

// wide spells some of a text in full width.
func (p *planter) wide(s string) string {
	if rapid.IntRange(0, 7).Draw(p.T, "wide") > 0 || strings.HasPrefix(s, "SECRET") {
		return s
	}
	return strings.Map(func(r rune) rune {
		if '!' <= r && r <= '~' {
			return r - '!' + 0xFF01
		}
		return r
	}, s)
}

// quote spells a string in JSON, some of its characters escaped.
func (p *planter) quote(s string) string {
	style := rapid.IntRange(0, 3).Draw(p.T, "escapes")
	var b strings.Builder
	b.WriteByte('"')
	for i, r := range s {
		switch {
		case r >= 0x10000:
			b.WriteRune(r)
		case style == 1 || style == 2 && i%3 == 0 || r < ' ' || r == '"' || r == '\\':
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func (p *planter) space() string {
	return rapid.SampledFrom([]string{"", "", " ", "\n"}).Draw(p.T, "space")
}

func (p *planter) value(depth int) string {
	kinds := []string{"null", "true", "85.50", "number", "string", "string"}
	if depth > 0 {
		kinds = append(kinds, "array", "object", "object")
	}
	switch kind := rapid.SampledFrom(kinds).Draw(p.T, "kind"); kind {
	case "number":
		if s := drawSecret(p.T); s.number != "" {
			p.planted = append(p.planted, s)
			return s.number
		}
		return "7"
	case "string":
		return p.quote(p.string())
	case "array":
		var items []string
		for range rapid.IntRange(0, 3).Draw(p.T, "length") {
			items = append(items, p.value(depth-1))
		}
		return "[" + p.space() + strings.Join(items, p.space()+","+p.space()) + "]"
	case "object":
		return p.object(depth, nil)
	default:
		return kind
	}
}

// object draws an object with undeclared members beside those given.
func (p *planter) object(depth int, members []string) string {
	seen := map[string]bool{}
	for range rapid.IntRange(0, 3).Draw(p.T, "members") {
		name := "x " + p.string()
		if !seen[name] {
			seen[name] = true
			members = append(members, p.quote(name)+p.space()+":"+p.space()+p.value(depth-1))
		}
	}
	return "{" + p.space() + strings.Join(members, p.space()+",") + "}"
}

func (p *planter) event() string {
	types := catalog.Types()
	typ := types[rapid.IntRange(0, len(types)-1).Draw(p.T, "type")].Name
	groups := map[string][]string{}
	var data []string
	for _, f := range event.Fields(event.TopicOf(typ)) {
		if rapid.IntRange(0, 3).Draw(p.T, "present") > 0 {
			continue
		}
		path := strings.Split(f.Pointer, "/")[2:]
		value := "7"
		switch f.Kind {
		case event.KindString:
			value = p.quote(p.string())
		case event.KindTime:
			value = `"2026-01-20T10:00:00.123Z"`
		case event.KindBool:
			value = "true"
		case event.KindStrings:
			value = "[" + p.quote(p.string()) + "," + p.quote(p.string()) + "]"
		case event.KindObject:
			value = p.object(2, nil)
		}
		member := p.quote(path[len(path)-1]) + ":" + value
		if len(path) == 1 {
			data = append(data, member)
		} else {
			groups[path[0]] = append(groups[path[0]], member)
		}
	}
	for _, g := range []string{"caller", "analysis", "transfer", "callback"} {
		if members := groups[g]; members != nil {
			data = append(data, `"`+g+`":`+p.object(2, members))
		}
	}
	attributes := []string{`"region":"eu"`}
	for i := range rapid.IntRange(0, 2).Draw(p.T, "attributes") {
		attributes = append(attributes, p.quote(fmt.Sprint("x", i, " ", p.string()))+":"+p.quote(p.string()))
	}
	return p.object(3, []string{`"id":"evt_1"`, `"type":"` + typ + `"`, `"time":"2026-01-20T10:00:00Z"`, `"tenant":"acme"`, `"source":"pbx"`, `"call_id":"c-1"`, `"agent_id":"a-1"`, `"sequence":4`,
		`"attributes":{` + strings.Join(attributes, ",") + "}", `"data":` + p.object(3, data)})
}

// leaks reports the first secret that is found in a text, whatever separates its digits and in whatever digits it is.
func (p *planter) leaks(text string) string {
	var plain, digits strings.Builder
	for _, r := range text {
		if 0xFF01 <= r && r <= 0xFF5E {
			r = r - 0xFF01 + '!'
		}
		plain.WriteRune(r)
		if unicode.IsDigit(r) {
			digits.WriteRune(r)
		}
	}
	for _, s := range p.planted {
		if strings.Contains(digits.String(), s.core) || strings.Contains(plain.String(), s.core) {
			return s.text
		}
	}
	return ""
}

// each calls look with every string, number and name of JSON.
func each(t *rapid.T, raw []byte, look func(string)) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			look(v)
		case json.Number:
			look(string(v))
			if whole, ok := event.WholeNumber(string(v)); ok {
				look(whole)
			}
		case []any:
			for _, x := range v {
				walk(x)
			}
		case map[string]any:
			for name, x := range v {
				look(name)
				walk(x)
			}
		}
	}
	walk(v)
}

// S0-27, P-05: no planted secret survives in any position, nesting or spelling, in any rendering, before and after Avro;
// who and what the event is stays.
func TestNoPlantedSecretSurvives(t *testing.T) {
	type rendering struct {
		name string
		*payload.Renderer
	}
	var renderers []rendering
	for _, profile := range []string{
		subscription.ProfileStandard, subscription.ProfileRaw, subscription.ProfileCloudEvents, subscription.ProfileCloudEventsBinary, subscription.ProfilePush,
		subscription.ProfileCallback, subscription.ProfileDialer, subscription.ProfilePlatform, subscription.ProfilePostCall, subscription.ProfileCustom,
	} {
		for _, method := range []string{"POST", "GET"} {
			p := subscription.Payload{Profile: profile, Redact: everywhere}
			if profile == subscription.ProfileCustom {
				p.Template = "event"
			}
			if profile == subscription.ProfileCloudEventsBinary && method == "GET" {
				continue
			}
			r, err := payload.Compile(p, method)
			require.NoError(t, err)
			renderers = append(renderers, rendering{profile + " " + method, r})
		}
	}
	s, patterns := compile(t, scope.Rules{Redact: everywhere}), compile(t, scope.Rules{Redact: []string{"card", "ssn", "/SECRET-[a-z]+/"}})
	codec := event.NewCodec(&registry{})
	rapid.Check(t, func(t *rapid.T) {
		p := &planter{T: t}
		raw := p.event()
		e, err := event.Parse([]byte(raw))
		require.NoError(t, err, raw)
		if rapid.Bool().Draw(t, "avro") {
			value, err := codec.EncodeEvent(context.Background(), nil, e)
			require.NoError(t, err)
			e, err = codec.DecodeEvent(context.Background(), e.Topic(), value)
			require.NoError(t, err)
		}
		out := s.Apply(e)
		body := out.AppendJSON(nil)
		look := func(text string) {
			if leak := p.leaks(text); leak != "" {
				t.Fatalf("%q survives in %q of\n%s\nfrom\n%s", leak, text, body, raw)
			}
		}
		each(t, body, look)
		if untouched := patterns.Apply(e); len(p.planted) == 0 && untouched != e {
			t.Fatalf("nothing to redact, and it became\n%s\nfrom\n%s", untouched.AppendJSON(nil), e.AppendJSON(nil))
		}
		if out.ID != e.ID || out.Type != e.Type || !out.Time.Equal(e.Time) || out.Tenant != e.Tenant || out.Source != e.Source || out.CallID != e.CallID || out.AgentID != e.AgentID || out.Sequence != e.Sequence {
			t.Fatalf("the envelope changed: %s", body)
		}
		r := rapid.SampledFrom(renderers).Draw(t, "renderer")
		rendered, err := r.Render(e)
		require.NoError(t, err, r.name)
		if len(rendered.Body) > 0 {
			each(t, rendered.Body, look)
		}
		query, err := url.ParseQuery(rendered.Query)
		require.NoError(t, err, rendered.Query)
		for name, values := range query {
			look(name)
			for _, v := range values {
				look(v)
			}
		}
		for name, value := range rendered.Headers {
			look(name)
			look(value)
		}
	})
}

// S0-26: what no rule names keeps its bytes, wherever it stands: only the excluded members are gone.
func TestOnlyWhatIsNamedGoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &planter{T: t}
		kept, gone := p.object(3, nil), p.object(3, nil)
		e, err := event.Parse([]byte(`{"type":"call.ended","call_id":"c","data":{"fields":{"b":` + kept + `,"a":` + gone + `},"crm":{"a":` + gone + `,"b":` + kept + `}},"a":` + gone + `,"b":` + kept + `}`))
		require.NoError(t, err)
		s, faults := scope.Compile(scope.Rules{Exclude: []string{"a", "data.fields.a", "data.crm.a"}})
		require.Empty(t, faults)
		want := `{"type":"call.ended","call_id":"c","data":{"fields":{"b":` + kept + `},"crm":{"b":` + kept + `}},"b":` + kept + `}`
		if got := string(s.Apply(e).AppendJSON(nil)); got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
		s, faults = scope.Compile(scope.Rules{Include: []string{"b", "data.fields.b", "data.crm.b"}})
		require.Empty(t, faults)
		if got := string(s.Apply(e).AppendJSON(nil)); got != want {
			t.Fatalf("included\n%s\nwant\n%s", got, want)
		}
	})
}

// S0-18, S1-06, P-05: include and exclude are what a naive reading of them is, for any rules and any members.
func TestIncludeAndExcludeAreWhatTheySay(t *testing.T) {
	name := rapid.SampledFrom([]string{"a", "b", "c"})
	var draw func(t *rapid.T, depth int) any
	draw = func(t *rapid.T, depth int) any {
		switch n := rapid.IntRange(0, 5).Draw(t, "kind"); {
		case depth > 0 && n > 2:
			m := map[string]any{}
			for _, k := range rapid.SliceOfNDistinct(name, 0, 3, rapid.ID).Draw(t, "names") {
				m[k] = draw(t, depth-1)
			}
			return m
		case depth > 0 && n == 2:
			list := []any{}
			for range rapid.IntRange(0, 3).Draw(t, "length") {
				list = append(list, draw(t, depth-1))
			}
			return list
		default:
			return rapid.SampledFrom([]any{"text", true, nil, 1.5}).Draw(t, "scalar")
		}
	}
	path := rapid.Custom(func(t *rapid.T) string {
		root := rapid.SampledFrom([]string{"data.crm", "data.fields", "data.caller.crm", "vendor", "data", "data.caller"}).Draw(t, "root")
		return strings.Join(append([]string{root}, rapid.SliceOfN(name, 0, 3).Draw(t, "path")...), ".")
	})
	rapid.Check(t, func(t *rapid.T) {
		members := map[string]any{
			"data":   map[string]any{"crm": draw(t, 4), "fields": map[string]any{"a": draw(t, 3), "b": draw(t, 3)}, "caller": map[string]any{"crm": draw(t, 3), "city": "Bonn"}},
			"vendor": draw(t, 3),
		}
		rules := scope.Rules{Include: rapid.SliceOfN(path, 0, 3).Draw(t, "include"), Exclude: rapid.SliceOfN(path, 0, 3).Draw(t, "exclude")}
		var naive func(v any, at string, covered bool) (any, bool)
		naive = func(v any, at string, covered bool) (any, bool) {
			if slices.Contains(rules.Exclude, at) {
				return nil, false
			}
			covered = covered || slices.Contains(rules.Include, at)
			switch v := v.(type) {
			case map[string]any:
				kept := map[string]any{}
				for k, x := range v {
					if x, ok := naive(x, strings.TrimPrefix(at+"."+k, "."), covered); ok {
						kept[k] = x
					}
				}
				declared := at == "data.fields" || at == "data.caller" // empty equals absent there
				return kept, (covered && !declared) || len(kept) > 0
			case []any:
				kept := []any{}
				for _, x := range v {
					if x, ok := naive(x, at, covered); ok {
						kept = append(kept, x)
					}
				}
				return kept, covered || len(kept) > 0
			}
			return v, covered
		}
		want, _ := naive(members, "", len(rules.Include) == 0)
		if want.(map[string]any)["data"] == nil {
			want.(map[string]any)["data"] = map[string]any{}
		}
		members["type"], members["call_id"] = "call.report", "c"
		raw, err := json.Marshal(members)
		require.NoError(t, err)
		e, err := event.Parse(raw)
		require.NoError(t, err)
		s, faults := scope.Compile(rules)
		require.Empty(t, faults)
		var got map[string]any
		require.NoError(t, json.Unmarshal(s.Apply(e).AppendJSON(nil), &got))
		delete(got, "type")
		delete(got, "call_id")
		require.Equal(t, want, got, "%v of %s", rules, raw)
	})
}

// Hostile events and rules: what comes out is an event in JSON with the identity that went in, which has not changed.
func FuzzApply(f *testing.F) {
	f.Add(`{"id":"e","type":"call.report","call_id":"c","time":"2026-01-20T10:00:00.1234567Z","attributes":{"a":"+15551234567"},"data":{"score":1e400,"fields":{"a.b":[1,{}]},"caller":{"x":"4111 1111 1111 1111"},"transcript_text":"hi"},"x":"a@b.co"}`,
		"data.fields.a", "data.caller.*", "snippet", `/[a-z]+\d/`)
	f.Add(`{"type":"sms.sent","data":{"body":"%2B1555\u0031234567 ٤١١١","\"":["\ud83d\ude00"]}}`, "data", "attributes", "none", "phone")
	f.Fuzz(func(t *testing.T, raw, include, exclude, transcript, redact string) {
		e, err := event.Parse([]byte(raw))
		if err != nil {
			return
		}
		rules := scope.Rules{Exclude: []string{exclude}, Transcript: transcript, Redact: []string{redact, "phone", "email", "payment", "ssn", "name", "speech"}}
		if include != "" {
			rules.Include = []string{include}
		}
		if exclude == "" {
			rules.Exclude = nil
		}
		if redact == "" {
			rules.Redact = rules.Redact[1:]
		}
		s, faults := scope.Compile(rules)
		if len(faults) > 0 {
			return
		}
		before := string(e.AppendJSON(nil))
		out := s.Apply(e)
		body := out.AppendJSON(nil)
		if !json.Valid(body) {
			t.Fatalf("not JSON: %s", body)
		}
		if after := string(e.AppendJSON(nil)); after != before {
			t.Fatalf("the event was\n%s\nand is\n%s", before, after)
		}
		for _, name := range []string{"id", "type", "time", "tenant", "sequence", "test"} {
			was, had := e.Lookup(name)
			is, has := out.Lookup(name)
			if had != has || was.String() != is.String() {
				t.Fatalf("%s was %s and is %s", name, was, is)
			}
		}
		if again := s.Apply(e).AppendJSON(nil); !bytes.Equal(body, again) {
			t.Fatalf("once\n%s\nthen\n%s", body, again)
		}
	})
}
