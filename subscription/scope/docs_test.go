package scope

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// S0-27, S0-33: what docs/payloads.md says is found is found, and what it says is left alone is.
func TestTheDocumentedFormsAreFound(t *testing.T) {
	raw, err := os.ReadFile("../../docs/payloads.md")
	require.NoError(t, err)
	code := regexp.MustCompile("`([^`]+)`")
	list := func(cell string) (texts []string) {
		for _, m := range code.FindAllStringSubmatch(cell, -1) {
			texts = append(texts, m[1])
		}
		return texts
	}
	for _, mark := range []string{"recognised", "left alone"} {
		table := regexp.MustCompile("<!-- " + mark + " -->\n((?:\\|.*\n)*)").FindSubmatch(raw)
		require.NotNil(t, table, mark)
		rows := strings.Split(strings.TrimSpace(string(table[1])), "\n")[2:]
		require.GreaterOrEqual(t, len(rows), 7)
		for _, row := range rows {
			cells := strings.Split(row, "|")
			p := compiled(t, list(cells[1])...)
			texts := list(cells[2])
			want := texts
			if mark == "recognised" {
				examples, _, _ := strings.Cut(cells[2], "`: ") // the words behind may have code as well
				texts = list(examples + "`")
				want = list(cells[3])
			}
			require.Len(t, want, len(texts), row)
			for i, text := range texts {
				got, _ := p.Text("", text)
				assert.Equal(t, want[i], got, text)
			}
		}
	}
}
