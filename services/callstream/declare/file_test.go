package declare_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/services/callstream/declare"
)

func load(t *testing.T, text string) ([]*declare.Entry, error) {
	t.Helper()
	return declare.Load(declare.Source{Name: "crm.yaml", Dir: t.TempDir(), Raw: []byte(text)})
}

// body is what the API is asked to create, without secrets.
func body(t *testing.T, e *declare.Entry) string {
	t.Helper()
	raw, err := json.Marshal(e.Create(nil))
	require.NoError(t, err)
	return string(raw)
}

// P-19: every fault at once, each with its file, its line and its place.
func TestFaultsNameFileLineAndPlace(t *testing.T) {
	_, err := load(t, `subscriptions:
  - name: CRM
    url: ftp://crm.example.com
    events: [call.*, nonsense.*]
    request:
      timeout: soon
      headers: {X.Team: "a\nb"}
    auth: {type: bearer, token: topsecret}
  - url: https://b.example.com
    events: ["*"]
    colour: red
  - name: CRM
    url: https://c.example.com
    events: "*"
    filter: event.data.score >
    auth: {type: basic, username: u, password: {vault: x}}
  - just text
other: 1
x-shared: &s {lane: standard}
`)
	var faults declare.Faults
	require.ErrorAs(t, err, &faults)
	require.NotContains(t, err.Error(), "topsecret")
	places := map[string]int{}
	for _, f := range faults {
		require.Equal(t, "crm.yaml", f.File)
		require.NotEmpty(t, f.Detail)
		places[f.Place] = f.Line
	}
	require.Equal(t, map[string]int{
		"subscriptions[0].url":                       3,
		"subscriptions[0].events[1]":                 4,
		"subscriptions[0].request.timeout":           6,
		`subscriptions[0].request.headers["X.Team"]`: 7,
		"subscriptions[0].auth.token":                8,
		"subscriptions[1].name":                      9,
		"subscriptions[1].colour":                    11,
		"subscriptions[2].name":                      12,
		"subscriptions[2].events":                    14,
		"subscriptions[2].filter":                    15,
		"subscriptions[2].auth.password":             16,
		"subscriptions[3]":                           17,
		"other":                                      18,
	}, places)
	require.Contains(t, err.Error(), "crm.yaml:3: subscriptions[0].url: want an https URL\n")
	for i := 1; i < len(faults); i++ {
		require.LessOrEqual(t, faults[i-1].Line, faults[i].Line, "in the order that one reads in")
	}
}

func TestWhatCannotBeReadAtAll(t *testing.T) {
	laughs := "x-a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
	for i := range 8 {
		laughs += strings.ReplaceAll("x-N: &N [*P, *P, *P, *P, *P, *P, *P, *P, *P, *P]\n", "N", string(rune('b'+i)))
		laughs = strings.ReplaceAll(laughs, "P", string(rune('a'+i)))
	}
	for name, c := range map[string]struct {
		text, want string
	}{
		"nothing":             {"", "crm.yaml: it is empty"},
		"only a comment":      {"# later\n", "crm.yaml: it is empty"},
		"broken YAML":         {"subscriptions:\n  - a: [1\n  - b", "crm.yaml:"},
		"broken JSON":         {"{\n\"subscriptions\": [\n}", "crm.yaml:3: it is not JSON"},
		"a name twice, JSON":  {"{\"subscriptions\": [],\n\"subscriptions\": []}", "crm.yaml:2: it is not JSON: duplicate"},
		"more after the JSON": {"{\"subscriptions\": []}\n{}", "crm.yaml:"},
		"a list":              {"- a", "crm.yaml:1: want a mapping"},
		"no list":             {"subscriptions: 1", "crm.yaml:1: subscriptions: want a list"},
		"a member twice":      {"subscriptions:\n  - name: a\n    name: b", `crm.yaml:3: the member "name" is there twice`},
		"itself":              {"subscriptions: &a [*a]", "crm.yaml:1: the alias *a is part of what it stands for"},
		"a tag":               {"subscriptions: !ruby/object:A []", "subscriptions: []"},
		"a billion laughs":    {laughs + "subscriptions: []", "expand to more values"},
		"not a number":        {"x-a: .nan\nsubscriptions: []", "crm.yaml:1: .nan is no number that JSON has"},
		"binary":              {"x-a: !!binary aGk=\nsubscriptions: []", "crm.yaml:1: the tag !!binary"},
		"<< of a string":      {"subscriptions:\n  - <<: a", "crm.yaml:2: << takes a mapping"},
	} {
		t.Run(name, func(t *testing.T) {
			entries, err := load(t, c.text)
			if name == "a tag" {
				require.NoError(t, err, "tags of lists and mappings mean nothing")
				require.Empty(t, entries)
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestFilesShareMembersByAnchors(t *testing.T) {
	entries, err := load(t, `
x-crm: &crm
  url: https://crm.example.com
  events: [call.ended]
  request: {timeout: 5s}
x-slow: &slow {lane: bulk, request: {timeout: 9s}}
subscriptions:
  - {name: A, <<: *crm}
  - {<<: [*crm, *slow], name: B, events: ["*"]}
---
subscriptions:
  - <<: *crm
    name: C
    request: {timeout: 30s}
`)
	require.NoError(t, err)
	require.Len(t, entries, 3)
	require.JSONEq(t, `{"name":"A","url":"https://crm.example.com","events":["call.ended"],"request":{"timeout":"5s"}}`, body(t, entries[0]))
	require.JSONEq(t, `{"name":"B","url":"https://crm.example.com","events":["*"],"request":{"timeout":"5s"},"lane":"bulk"}`, body(t, entries[1]))
	require.JSONEq(t, `{"name":"C","url":"https://crm.example.com","events":["call.ended"],"request":{"timeout":"30s"}}`, body(t, entries[2]))
}

func TestValuesKeepTheirKind(t *testing.T) {
	entries, err := load(t, `subscriptions:
  - name: yes
    url: https://a.example.com
    events: [call.ended]
    payload:
      extra: {s: "1", n: 1, hex: 0x10, f: 85.50, big: 123456789012345678901234567890, t: true, y: yes, d: 2026-01-02, none: ~, list: [a, ~], 404: x}
`)
	require.NoError(t, err)
	require.Equal(t, "yes", entries[0].Name)
	raw, err := json.Marshal(entries[0].Create(nil)["payload"])
	require.NoError(t, err)
	require.Equal(t, `{"extra":{"404":"x","big":123456789012345678901234567890,"d":"2026-01-02","f":85.50,"hex":16,"list":["a",null],"n":1,"none":null,"s":"1","t":true,"y":"yes"}}`, string(raw))
}

// JSON has escapes that YAML doesn't: a pair of surrogates.
func TestJSONIsTakenAsItIs(t *testing.T) {
	entries, err := load(t, "{\"$schema\": \"x\",\n\t\"subscriptions\": [\n\t\t{\"name\": \"\\ud83d\\ude00\", \"url\": \"https:\\/\\/a.example.com\",\n\t\t \"events\": [\"*\"], \"position\": 3}]}")
	require.NoError(t, err)
	require.Equal(t, "😀", entries[0].Name)
	require.Equal(t, 3, entries[0].Line)
	require.JSONEq(t, `{"name":"😀","url":"https://a.example.com","events":["*"],"position":3}`, body(t, entries[0]))
	_, err = load(t, "{\"subscriptions\": [\n{\"name\": \"A\",\n\"url\": \"https://a.example.com\", \"events\": [\"*\"],\n\"position\": \"x\"}]}")
	require.ErrorContains(t, err, "crm.yaml:4: subscriptions[0].position: want a whole number")
	// A flow mapping only looks like JSON.
	_, err = load(t, "{subscriptions: []}")
	require.NoError(t, err)
}

func TestNamesAreUniqueInAllFiles(t *testing.T) {
	one := func(name, text string) declare.Source {
		return declare.Source{Name: name, Raw: []byte("subscriptions:\n  - {url: https://a.example.com, events: ['*'], " + text + "}\n")}
	}
	_, err := declare.Load(one("a.yaml", "name: A"), one("b.yaml", "name: A"))
	require.EqualError(t, err, `b.yaml:2: subscriptions[0].name: "A" is a.yaml:2 already: names must be unique`)
	_, err = declare.Load(one("a.yaml", "name: B, was: A"), one("b.yaml", "name: A"))
	require.ErrorContains(t, err, `a.yaml:2: subscriptions[0].was: "A" is b.yaml:2 already`)
	_, err = declare.Load(one("a.yaml", "name: B, was: A"), one("b.yaml", "name: C, was: A"))
	require.ErrorContains(t, err, `b.yaml:2: subscriptions[0].was`)
	_, err = declare.Load(one("a.yaml", "name: A, was: A"))
	require.ErrorContains(t, err, `subscriptions[0].was: want the name that it had before`)
}

// S1-08, P-19: secrets by reference only.
func TestSecretsAreReadWhereTheFileSays(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "crm"), []byte("from a file\r\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "empty"), []byte("\n"), 0o600))
	entries, err := declare.Load(declare.Source{Name: "a.yaml", Dir: dir, Raw: []byte(`
subscriptions:
  - {name: A, url: https://a.example.com, events: ["*"], auth: {type: bearer, token: {env: TOKEN}}, signing: {secret: {file: crm}}}
  - {name: B, url: https://a.example.com, events: ["*"], auth: {type: bearer, token: {file: gone}}}
  - {name: C, url: https://a.example.com, events: ["*"], auth: {type: bearer, token: {file: empty}}}
`)})
	require.NoError(t, err)
	env := map[string]string{"TOKEN": "from the environment", "EMPTY": ""}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	read := map[string]string{}
	for _, r := range entries[0].Secrets {
		plain, err := r.Read(lookup)
		require.NoError(t, err)
		read[r.Member] = plain
	}
	require.Equal(t, map[string]string{"/auth/token": "from the environment", "/signing/secret": "from a file"}, read)
	raw, err := json.Marshal(entries[0].Create(read))
	require.NoError(t, err)
	require.JSONEq(t, `{"name":"A","url":"https://a.example.com","events":["*"],"auth":{"type":"bearer","token":"from the environment"},"signing":{"secret":"from a file"}}`, string(raw))
	require.NotContains(t, body(t, entries[0]), "from", "what was made with secrets shares nothing with the entry")

	_, err = entries[1].Secrets[0].Read(lookup)
	require.ErrorContains(t, err, filepath.Join(dir, "gone")+": no such file")
	_, err = entries[2].Secrets[0].Read(lookup)
	require.ErrorContains(t, err, "is empty")
	for _, name := range []string{"UNSET", "EMPTY"} {
		_, err = declare.Reference{Env: name}.Read(lookup)
		require.ErrorContains(t, err, name)
	}
	require.Equal(t, "from the environment", must(declare.Reference{Env: "TOKEN"}.Read(lookup)))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestFolder(t *testing.T) {
	require.Equal(t, []string{"a.json", "b.yml", "c.yaml"}, declare.Folder([]string{"c.yaml", "b.yml", "README.md", ".hidden.yaml", "a.json", "d"}))
}

func FuzzLoad(f *testing.F) {
	f.Add("subscriptions:\n  - {name: A, url: https://a.example.com, events: ['*']}")
	f.Add(`{"subscriptions": [{"name": "A", "auth": {"token": {"env": "X"}}}]}`)
	f.Add("a: &a\n  <<: *a\nsubscriptions: [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := declare.Load(declare.Source{Name: "f", Raw: []byte(text)})
		if err != nil {
			return
		}
		for _, e := range entries {
			require.NotEmpty(t, e.Name)
			body(t, e)
		}
	})
}

// The page about it shows a file that works.
func TestTheDocumentedFileWorks(t *testing.T) {
	page, err := os.ReadFile("../../../docs/declarative.md")
	require.NoError(t, err)
	_, text, ok := strings.Cut(string(page), "```yaml\n")
	require.True(t, ok)
	text, _, _ = strings.Cut(text, "```")
	entries, err := load(t, text)
	require.NoError(t, err)
	require.Len(t, entries, 2)
	require.Equal(t, "Bookkeeping", entries[1].Was)
	require.Equal(t, "/auth/token", entries[0].Secrets[0].Member)
}
