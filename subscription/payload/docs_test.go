package payload

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/schemas/catalog"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
)

const page = "../../docs/payloads.md"

// S0-33: payload schemas are published, and are what is sent. `go test -update` writes the examples and tables anew; what
// stands between a mark (<!-- push -->) and the end of the block or table behind it is theirs.
func TestTheDocumentedExamplesAreWhatIsRendered(t *testing.T) {
	raw, err := os.ReadFile(page)
	require.NoError(t, err)
	text := string(raw)
	e := load(t, "documented")
	documented, err := os.ReadFile("testdata/events/documented.json")
	require.NoError(t, err)

	blocks := map[string]string{"event": string(documented), "dialer GET": "", "types": typesTable(t), "fields": fieldsTable()}
	for _, profile := range profiles() {
		if profile == subscription.ProfileCustom {
			continue
		}
		r, err := renderer(t, profile, "POST").Render(e)
		require.NoError(t, err)
		blocks[profile] = indented(t, r)
	}
	get, err := renderer(t, subscription.ProfileDialer, "GET").Render(e)
	require.NoError(t, err)
	blocks["dialer GET"] = get.Query + "\n"
	templates := regexp.MustCompile("(?s)<!-- template (\\w+) -->\n```cel\n(.*?)```\n").FindAllStringSubmatch(text, -1)
	require.Len(t, templates, 2)
	for _, template := range templates {
		r, err := renderer(t, subscription.ProfileCustom, "POST", func(p *subscription.Payload) { p.Template = template[2] }).Render(e)
		require.NoError(t, err)
		blocks["custom "+template[1]] = indented(t, r)
	}

	for name, want := range blocks {
		pattern := regexp.MustCompile("(?s)<!-- " + name + " -->\n```\\w+\n(.*?)```\n")
		if strings.HasPrefix(want, "|") {
			pattern = regexp.MustCompile("<!-- " + name + " -->\n((?:\\|.*\n)*)")
		}
		found := pattern.FindStringSubmatchIndex(text)
		require.NotNil(t, found, "%s has no block %q", page, name)
		if *update {
			text = text[:found[2]] + want + text[found[3]:]
			continue
		}
		assert.Equal(t, want, text[found[2]:found[3]], name)
	}
	if *update {
		require.NoError(t, os.WriteFile(page, []byte(text), 0o600))
	}
}

func indented(t *testing.T, r Rendered) string {
	t.Helper()
	var b bytes.Buffer
	for _, header := range slices.Sorted(maps.Keys(r.Headers)) {
		fmt.Fprintf(&b, "%s: %s\n", header, r.Headers[header])
	}
	if b.Len() > 0 {
		fmt.Fprintf(&b, "content-type: %s\n\n", r.ContentType)
	}
	require.NoError(t, json.Indent(&b, r.Body, "", "  "))
	return b.String() + "\n"
}

func typesTable(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("| type | `callback` | `dialer` | `platform` |\n|---|---|---|---|\n")
	shapes := []*shape{callbackShape(), dialerShape(), platformShape()}
	for _, typ := range catalog.Types() {
		row, named := "| `"+typ.Name+"`", false
		for _, s := range shapes {
			if name, ok := s.types[typ.Name]; ok {
				row, named = row+" | `"+name+"`", true
			} else {
				row += " | "
			}
		}
		if named {
			b.WriteString(row + " |\n")
		}
	}
	return b.String()
}

func fieldsTable() string {
	columns := []map[int]string{
		places(pushShape().layouts[topic.CallsEvents], "data."), places(callbackShape().layouts[topic.CallsEvents], ""),
		places(dialerShape().layouts[topic.CallsEvents], ""), places(postCallLayout(), ""),
	}
	var b strings.Builder
	b.WriteString("| `data.` | `push` | `callback` | `dialer` | `post-call` |\n|---|---|---|---|---|\n")
	for i, f := range event.Fields(topic.CallsEvents) {
		fmt.Fprintf(&b, "| `%s`", strings.ReplaceAll(strings.TrimPrefix(f.Pointer, "/data/"), "/", "."))
		for _, column := range columns {
			if place, ok := column[i]; ok {
				fmt.Fprintf(&b, " | `%s`", place)
			} else {
				b.WriteString(" | ")
			}
		}
		b.WriteString(" |\n")
	}
	return b.String()
}

// places are the paths that a layout gives the fields.
func places(l *layout, prefix string) map[int]string {
	at, path := map[int]string{}, []string{}
	for _, s := range l.steps {
		name := strings.Trim(s.key, `":{`)
		switch s.kind {
		case stepField:
			at[s.field] = prefix + strings.Join(append(slices.Clone(path), name), ".")
		case stepOpen:
			path = append(path, name)
		case stepClose:
			path = path[:len(path)-1]
		}
	}
	return at
}
