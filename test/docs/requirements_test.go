// Package docs checks what the documentation claims about the code.
package docs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const root = "../.."

// systems are the sources of the requirements, with how many rows each has.
func systems() []struct {
	name string
	rows int
} {
	return []struct {
		name string
		rows int
	}{{"S0", 34}, {"S1", 21}, {"S2", 23}, {"S3", 22}, {"S4", 13}, {"P", 20}}
}

// docs/requirements.md lists each requirement once, in order, with tests that exist, or says that it is not met yet.
func TestRequirementsNameTestsThatExist(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root, "docs", "requirements.md"))
	require.NoError(t, err)
	tests := testFunctions(t)
	var ids []string
	for line := range strings.Lines(string(raw)) {
		row := regexp.MustCompile(`^\| ((?:S\d|P)-\d\d) \| ([^|]+) \| ([^|]+) \|\s*$`).FindStringSubmatch(line)
		if row == nil {
			assert.NotRegexp(t, `^\| (S\d|P)-`, line, "a row has three columns")
			continue
		}
		ids = append(ids, row[1])
		if strings.HasPrefix(row[3], "Not yet") {
			continue
		}
		named := regexp.MustCompile("`([A-Za-z0-9_]+)`").FindAllStringSubmatch(row[3], -1)
		assert.NotEmpty(t, named, "%s names no test", row[1])
		for _, name := range named {
			assert.True(t, tests[name[1]], "%s names %s, which is no test", row[1], name[1])
		}
	}
	var want []string
	for _, s := range systems() {
		for n := range s.rows {
			want = append(want, fmt.Sprintf("%s-%02d", s.name, n+1))
		}
	}
	assert.Equal(t, want, ids)
}

// testFunctions are the tests, and the scenarios of the integration suite, by name.
func testFunctions(t *testing.T) map[string]bool {
	t.Helper()
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+|[a-z]\w+)\(t \*testing\.T(?:, p \*pipeline)?\)`)
	found := map[string]bool{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range function.FindAllStringSubmatch(string(raw), -1) {
			found[m[1]] = true
		}
		return nil
	}))
	return found
}
