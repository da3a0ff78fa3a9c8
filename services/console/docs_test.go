package console

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// docs/api.md lists the operations of the OpenAPI document, all of them and no other, each with its scope.
func TestTheDocsListEveryOperation(t *testing.T) {
	raw, err := os.ReadFile("../../docs/api.md")
	require.NoError(t, err)
	var listed []string
	operation := regexp.MustCompile("`((?:GET|POST|PUT|PATCH|DELETE) /v1/[^`]+)`")
	for line := range strings.Lines(string(raw)) {
		cells := strings.Split(line, "|")
		if !strings.HasPrefix(line, "| `") || len(cells) < 4 {
			continue
		}
		for _, found := range operation.FindAllStringSubmatch(cells[1], -1) {
			listed = append(listed, fmt.Sprintf("%s: %s", found[1], strings.Trim(cells[2], " `")))
		}
	}
	want := []string{"POST /v1/events: events:write"} // the producer's
	for path, methods := range start(t).document().Paths {
		for method, op := range methods {
			scope := op.scope()
			if scope == "" {
				scope = "any"
			}
			want = append(want, fmt.Sprintf("%s %s: %s", strings.ToUpper(method), path, scope))
		}
	}
	slices.Sort(listed)
	slices.Sort(want)
	require.Equal(t, want, listed)
}
