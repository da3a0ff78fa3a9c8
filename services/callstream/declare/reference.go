package declare

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/callstream/callstream/subscription"
)

// Reference says where a secret is: in an environment variable, or in a file. A secret itself has no place in a file
// that is kept under version control.
type Reference struct {
	// Member is the secret's place in the subscription, "/auth/token".
	Member string `json:"member"`
	Env    string `json:"env,omitempty"`
	File   string `json:"file,omitempty"`

	dir string // what a relative File starts from
}

// String says where the secret is.
func (r Reference) String() string {
	if r.Env != "" {
		return "env " + r.Env
	}
	return "file " + r.File
}

// maxSecretFile is far above any secret, and far below what would hurt.
const maxSecretFile = 64 << 10

// Read returns the secret, without the line end that an editor leaves in a file.
func (r Reference) Read(lookup func(string) (string, bool)) (string, error) {
	if r.Env != "" {
		v, ok := lookup(r.Env)
		switch {
		case !ok:
			return "", fmt.Errorf("the environment variable %s is not set", r.Env)
		case v == "":
			return "", fmt.Errorf("the environment variable %s is empty", r.Env)
		}
		return v, nil
	}
	path := r.File
	if !filepath.IsAbs(path) {
		path = filepath.Join(r.dir, path)
	}
	raw, err := os.ReadFile(path)
	var failed *fs.PathError
	if errors.As(err, &failed) {
		return "", fmt.Errorf("%s: %w", path, failed.Err)
	}
	if err != nil {
		return "", err
	}
	if len(raw) > maxSecretFile {
		return "", fmt.Errorf("%s: larger than %d bytes, so no secret", path, maxSecretFile)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r")
	if text == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return text, nil
}

// secretMembers are the paths of the members that hold secrets.
func secretMembers() [][]string {
	var out [][]string
	var walk func(t reflect.Type, at []string)
	walk = func(t reflect.Type, at []string) {
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			path := append(slices.Clone(at), name)
			switch {
			case name == "" || name == "-":
			case f.Type == reflect.TypeFor[subscription.Hidden]():
				out = append(out, path)
			case f.Type.Kind() == reflect.Struct:
				walk(f.Type, path)
			}
		}
	}
	walk(reflect.TypeFor[subscription.Subscription](), nil)
	return out
}

// reference reads what stands where a secret belongs. The detail says what is wrong with it, and never repeats it.
func reference(v *value) (r Reference, detail string) {
	if _, literal := v.text(); literal {
		return r, "a secret does not belong in the file: say where it is, {env: NAME} or {file: PATH}"
	}
	if v.kind != isObject || len(v.members) != 1 {
		return r, "want {env: NAME} or {file: PATH}"
	}
	text, ok := v.members[0].value.text()
	if !ok || text == "" {
		return r, "want {env: NAME} or {file: PATH}"
	}
	switch v.members[0].name {
	case "env":
		r.Env = text
	case "file":
		r.File = text
	default:
		return r, "want {env: NAME} or {file: PATH}"
	}
	return r, ""
}
