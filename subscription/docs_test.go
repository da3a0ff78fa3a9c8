package subscription

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// S0-33: what docs/subscriptions.md shows is taken, and it names every member that there is.
func TestTheReferenceIsTrue(t *testing.T) {
	raw, err := os.ReadFile("../docs/subscriptions.md")
	require.NoError(t, err)
	page := string(raw)
	examples := regexp.MustCompile("(?s)<!-- subscription -->\n```json\n(.*?)```").FindAllStringSubmatch(page, -1)
	require.Len(t, examples, 2)
	for _, example := range examples {
		_, err := Parse([]byte(strings.ReplaceAll(example[1], `"…"`, `"secret"`)), Rules{})
		require.NoError(t, err, example[1])
	}
	filters := regexp.MustCompile("(?s)<!-- filters -->\n```\n(.*?)\n```").FindStringSubmatch(page)
	require.NotNil(t, filters)
	for _, filter := range strings.Split(filters[1], "\n") {
		_, err := CompileFilter(filter)
		require.NoError(t, err, filter)
	}

	var missing []string
	var look func(typ reflect.Type, group string)
	look = func(typ reflect.Type, group string) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			switch {
			case name == "" || name == "-":
			case group == "" && slices.Contains([]string{"payload", "request", "auth", "signing", "retry"}, name):
				look(f.Type, name+".")
			case !strings.Contains(page, "`"+group+name+"`") && (group == "payload." || !strings.Contains(page, "`"+name+"`")):
				missing = append(missing, group+name)
			}
		}
	}
	look(reflect.TypeFor[Subscription](), "")
	require.Empty(t, missing, "members that the reference lacks")
}
