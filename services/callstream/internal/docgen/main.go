// Command docgen writes the files of docs/ that are made from the code: settings, topics, event types, and the schema of
// files that declare subscriptions. The argument is the folder to write to.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/callstream/callstream/pkg/config"
	"github.com/callstream/callstream/schemas/catalog"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/callstream"
	"github.com/callstream/callstream/services/callstream/declare"
)

const notice = "<!-- Made by `make generate`; edit the code it is made from. -->\n\n"

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: docgen FOLDER")
	}
	settings, err := configuration()
	if err != nil {
		log.Fatal(err)
	}
	schema, err := subscriptionsSchema()
	if err != nil {
		log.Fatal(err)
	}
	for name, text := range map[string]string{
		"configuration.md": notice + settings, "topics.md": notice + topics(), "events.md": notice + events(),
		"schemas/subscriptions.schema.json": schema,
	} {
		path := filepath.Join(os.Args[1], name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			log.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			log.Fatal(err)
		}
	}
}

func subscriptionsSchema() (string, error) {
	raw, err := declare.Schema()
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return "", err
	}
	b.WriteByte('\n')
	return b.String(), nil
}

func configuration() (string, error) {
	entries, err := config.Reference(&callstream.UpConfig{})
	if err != nil {
		return "", err
	}
	return `# Configuration

Every setting is an environment variable, a key of the YAML file that ` + "`CALLSTREAM_CONFIG`" + ` names (the variable's name in lower case,
without the prefix) and a flag (` + "`--http-addr` for `CALLSTREAM_HTTP_ADDR`" + `). A flag goes over a variable, a variable over the file.
All problems are reported at once, with exit status 2. Each service takes the settings it has a use for, under the same names.

` + "`callstream up`" + ` differs in some defaults: 8 partitions, logs for people, and, while ` + "`CALLSTREAM_HTTP_ADDR`" + ` is a loopback
address, ` + "`CALLSTREAM_AUTH=off`" + ` and endpoints on private addresses and over plain http allowed.

` + config.Markdown(entries), nil
}

func topics() string {
	var b strings.Builder
	b.WriteString(`# Topics

Values are Avro in the Confluent wire format, subject ` + "`<topic>-value`" + `. Partition counts are those of ` + "`CALLSTREAM_PARTITIONS`" + `
unless the table says 1, and fixed once a topic holds records. ` + "`callstream topics apply`" + ` creates and checks them all.

| topic | holds | key | record | partitions | kept | largest batch |
|---|---|---|---|---|---|---|
`)
	for _, t := range topic.All(topic.Policy{}) {
		partitions := "all"
		if t.Partitions == 1 {
			partitions = "1"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | `%s` | %s | %s | %d MiB |\n", t.Name, t.Doc, t.Key, t.Schema, partitions, t.Kept(), t.MaxBytes>>20)
	}
	return b.String()
}

func events() string {
	var b strings.Builder
	b.WriteString("# Event types\n\nThe catalogue, as `GET /v1/event-types` answers it; `GET /v1/event-types/{type}` adds the JSON Schema.\n")
	last := ""
	for _, t := range catalog.Types() {
		if t.Topic != last {
			fmt.Fprintf(&b, "\n## `%s`\n", t.Topic)
			last = t.Topic
		}
		fmt.Fprintf(&b, "\n### `%s`\n\n%s\n\n```json\n%s\n```\n", t.Name, t.Description, strings.TrimSpace(string(t.Sample)))
	}
	return b.String()
}
