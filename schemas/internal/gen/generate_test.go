package gen_test

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/callstream/callstream/schemas/avro"
	"github.com/callstream/callstream/schemas/internal/gen"
)

func TestGeneratedFilesAreUpToDate(t *testing.T) {
	files, err := gen.Generate(avro.Files)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile("../../event/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("event/%s isn't what the schemas give: run go generate ./...", name)
		}
	}
}

// The rules of the wire contract that no Avro library knows.
func TestSchemasThatBreakTheRules(t *testing.T) {
	record := func(fields string) string {
		return `{"type":"record","name":"A","namespace":"callstream","doc":"d","fields":[` + fields + `]}`
	}
	call, err := avro.Files.ReadFile("call_event.avsc")
	if err != nil {
		t.Fatal(err)
	}
	event := func(field string) string {
		return strings.Replace(string(call), `{"name": "direction"`, field+`,{"name": "direction"`, 1)
	}
	if _, err := gen.Generate(fstest.MapFS{"a.avsc": {Data: []byte(record(`{"name":"a","type":"string","default":"","doc":"d"}`))}, "call_event.avsc": {Data: call}}); err != nil {
		t.Fatal(err)
	}
	if _, err := gen.Generate(fstest.MapFS{"a.avsc": {Data: []byte(event(`{"name":"a","type":["null","string"],"default":null,"doc":"d"}`))}}); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"no doc":                    record(`{"name":"a","type":"string","default":""}`),
		"no default":                record(`{"name":"a","type":"string","doc":"d"}`),
		"another default":           record(`{"name":"a","type":"string","default":"x","doc":"d"}`),
		"unknown pii":               record(`{"name":"a","type":"string","default":"","doc":"d","pii":"face"}`),
		"a union of two":            record(`{"name":"a","type":["null","string","long"],"default":null,"doc":"d"}`),
		"null last":                 record(`{"name":"a","type":["string","null"],"default":"","doc":"d"}`),
		"an enum":                   record(`{"name":"a","type":{"type":"enum","name":"E","symbols":["A"]},"default":"A","doc":"d"}`),
		"another namespace":         strings.Replace(record(``), "callstream", "else", 1),
		"an event without envelope": strings.Replace(record(`{"name":"a","type":"string","default":"","doc":"d"}`), `"doc"`, `"topic":"t","types":["a.b"],"doc"`, 1),
		"a field twice in JSON":     event(`{"name":"a","type":["null","string"],"default":null,"doc":"d","json":"/status"}`),
		"a group torn apart":        event(`{"name":"a","type":["null","string"],"default":null,"doc":"d","json":"/caller/a"}`),
		"a group and a field":       event(`{"name":"a","type":["null","string"],"default":null,"doc":"d","json":"/caller"}`),
		"groups in groups":          event(`{"name":"a","type":["null","string"],"default":null,"doc":"d","json":"/a/b/c"}`),
		"an object of numbers":      event(`{"name":"a","type":["null","long"],"default":null,"doc":"d","json_type":"object"}`),
		"bytes in an event":         event(`{"name":"a","type":"bytes","default":"","doc":"d"}`),
		"a plain string":            event(`{"name":"a","type":"string","default":"","doc":"d"}`),
		"not JSON":                  `{`,
	} {
		if _, err := gen.Generate(fstest.MapFS{"a.avsc": {Data: []byte(text)}, "call_event.avsc": {Data: call}}); err == nil || strings.Contains(err.Error(), "_gen.go") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
