package event

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/callstream/callstream/schemas/avro"
	"github.com/callstream/callstream/schemas/topic"
	hamba "github.com/hamba/avro/v2"
)

// ErrRegistry marks a failure to reach the schema registry, or one that it reports about itself. The record may be fine:
// wait and try again.
var ErrRegistry = errors.New("schema registry unavailable")

// Registry is what the codec needs of a Confluent-compatible schema registry. An error of SchemaByID that says that the
// registry does not know the id must have, somewhere in its chain, a method NotFound() bool that returns true; every other
// error counts as a registry that cannot be reached.
type Registry interface {
	SchemaByID(ctx context.Context, id int) (schema string, err error)
	// Register returns the id of a schema under a subject; registering what is already there returns its id.
	Register(ctx context.Context, subject, schema string) (id int, err error)
}

// Record is a record of the pipeline, one of the types that are generated from the schemas.
type Record interface {
	SchemaName() string
	AppendAvro([]byte) []byte
	ReadAvro([]byte) error
}

// Identity is what identifies an event, and its type.
type Identity struct{ ID, Type, Tenant, Source string }

// Codec puts records into the Confluent wire format (a zero byte, the id of the writer's schema, the Avro body) and reads
// them back, whichever version of the schema they were written with. It is safe for concurrent use.
type Codec struct {
	registry Registry

	mu      sync.RWMutex
	own     map[string]int     // id of our own schema by subject, and by schema name
	writers map[int]*writer    // what is known of the schemas that records were written with
	schemas map[string]*schema // ours, by full name
}

// schema is one of our own.
type schema struct {
	text   string
	parsed hamba.Schema
}

// writer is a schema that some record was written with.
type writer struct {
	name     string        // full name of our schema that it is a version of
	same     bool          // the bytes are those of our own version
	theirs   hamba.Schema  // else: what the bytes are,
	resolved hamba.Schema  // and how they are read into our fields,
	extra    []extraColumn // but for those that ours has not
}

// wireHeader is the length of the magic byte and the schema id.
const wireHeader = 5

// maxText bounds a string in a record that was written with another version of a schema: no topic takes larger records.
const maxText = 8 << 20

// NewCodec returns a codec on a registry. It talks to the registry when it first meets a schema, or in Prepare.
func NewCodec(r Registry) *Codec {
	return &Codec{registry: r, own: map[string]int{}, writers: map[int]*writer{}, schemas: map[string]*schema{}}
}

// SchemaText returns the Avro schema of that full name, such as callstream.Delivery, as it is registered.
func SchemaText(name string) (string, error) {
	file, ok := schemaFiles()[name]
	if !ok {
		return "", fmt.Errorf("no schema is named %q", name)
	}
	text, err := avro.Files.ReadFile(file)
	return string(text), err
}

func parseSchema(text string) (hamba.Schema, error) {
	return hamba.ParseWithCache(text, "", &hamba.SchemaCache{})
}

func (c *Codec) schema(name string) (*schema, error) {
	c.mu.RLock()
	s := c.schemas[name]
	c.mu.RUnlock()
	if s != nil {
		return s, nil
	}
	text, err := SchemaText(name)
	if err != nil {
		return nil, err
	}
	parsed, err := parseSchema(text)
	if err != nil {
		return nil, fmt.Errorf("schema %s: %w", name, err)
	}
	s = &schema{text, parsed}
	c.mu.Lock()
	c.schemas[name] = s
	c.mu.Unlock()
	return s, nil
}

// Prepare registers our schemas under subjects (topic names with "-value"), or under those of every topic of the default
// policy where none is named. It is safe to repeat; an error that wraps ErrRegistry is worth repeating it for.
func (c *Codec) Prepare(ctx context.Context, subjects ...string) error {
	if len(subjects) == 0 {
		for _, t := range topic.All(topic.Policy{}) {
			subjects = append(subjects, t.Subject())
		}
	}
	for _, subject := range subjects {
		name, ok := topic.SchemaOf(strings.TrimSuffix(subject, "-value"))
		if !ok {
			return fmt.Errorf("subject %q is of no topic of callstream's", subject)
		}
		if _, err := c.register(ctx, subject, name); err != nil {
			return err
		}
	}
	return nil
}

// register returns the id of our schema under a subject.
func (c *Codec) register(ctx context.Context, subject, name string) (int, error) {
	c.mu.RLock()
	id, ok := c.own[subject]
	c.mu.RUnlock()
	if ok {
		return id, nil
	}
	s, err := c.schema(name)
	if err != nil {
		return 0, err
	}
	id, err = c.registry.Register(ctx, subject, s.text)
	if err != nil {
		return 0, fmt.Errorf("%w: register %s: %w", ErrRegistry, subject, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own[subject] = id
	if _, ok := c.own[name]; !ok {
		c.own[name] = id
	}
	c.writers[id] = &writer{name: name, same: true}
	return id, nil
}

func appendHeader(dst []byte, id int) []byte {
	return binary.BigEndian.AppendUint32(append(dst, 0), uint32(id))
}

// EncodeEvent appends the event as a record value of its topic. It errs where the event's type is unknown, and with
// ErrRegistry where the topic's schema was not prepared and cannot be registered now.
func (c *Codec) EncodeEvent(ctx context.Context, dst []byte, e *Event) ([]byte, error) {
	t := e.fieldTable()
	if t == nil {
		return dst, Faults{{"/type", "is not an event type of the catalogue"}}
	}
	id, err := c.register(ctx, topic.Subject(t.topic), t.schema)
	if err != nil {
		return dst, err
	}
	return e.AppendAvro(appendHeader(dst, id)), nil
}

// Encode appends a record of the pipeline as a record value. All topics that hold the same record share a schema id.
func (c *Codec) Encode(ctx context.Context, dst []byte, r Record) ([]byte, error) {
	c.mu.RLock()
	id, ok := c.own[r.SchemaName()]
	c.mu.RUnlock()
	if !ok {
		subject := ""
		for _, t := range topic.All(topic.Policy{}) {
			if t.Schema == r.SchemaName() {
				subject = t.Subject()
				break
			}
		}
		if subject == "" {
			return dst, fmt.Errorf("no topic holds %s", r.SchemaName())
		}
		var err error
		if id, err = c.register(ctx, subject, r.SchemaName()); err != nil {
			return dst, err
		}
	}
	return r.AppendAvro(appendHeader(dst, id)), nil
}

// DecodeEvent reads a record value of an event topic. Its error wraps ErrPoison where no retry can help and ErrRegistry
// where one can. It copies what it needs of value. What the catalogue asks beyond the schema is left to Check.
func (c *Codec) DecodeEvent(ctx context.Context, topic string, value []byte) (*Event, error) {
	e := &Event{}
	if err := c.DecodeEventInto(ctx, e, topic, value); err != nil {
		return nil, err
	}
	return e, nil
}

// DecodeEventInto is DecodeEvent into an event that nobody needs any more: its memory is used again. After an error e is
// good for nothing else.
func (c *Codec) DecodeEventInto(ctx context.Context, e *Event, topic string, value []byte) error {
	t := tableOfTopic(topic)
	if t == nil {
		return fmt.Errorf("%s isn't an event topic", topic)
	}
	body, err := c.body(ctx, t.schema, value)
	if err != nil {
		return err
	}
	return e.read(t, body)
}

// PeekIdentity reads only what identifies an event: cheap where the record was written with our own schema.
func (c *Codec) PeekIdentity(ctx context.Context, topic string, value []byte) (Identity, error) {
	t := tableOfTopic(topic)
	if t == nil {
		return Identity{}, fmt.Errorf("%s isn't an event topic", topic)
	}
	body, err := c.body(ctx, t.schema, value)
	if err != nil {
		return Identity{}, err
	}
	var e Event
	r := reader{b: body}
	e.readIdentity(&r)
	return Identity{ID: e.ID, Type: e.Type, Tenant: e.Tenant, Source: e.Source}, r.err
}

// Decode reads a record value of the pipeline into r. Its byte slices share memory with value. Errors are those of
// DecodeEvent.
func (c *Codec) Decode(ctx context.Context, value []byte, r Record) error {
	body, err := c.body(ctx, r.SchemaName(), value)
	if err != nil {
		return err
	}
	return r.ReadAvro(body)
}

// body returns the Avro body of a record value as our own version of the named schema writes it.
func (c *Codec) body(ctx context.Context, name string, value []byte) ([]byte, error) {
	if len(value) < wireHeader || value[0] != 0 {
		return nil, poison("not in the Confluent wire format")
	}
	id := int(binary.BigEndian.Uint32(value[1:]))
	c.mu.RLock()
	w := c.writers[id]
	c.mu.RUnlock()
	if w == nil {
		var err error
		if w, err = c.fetch(ctx, id, name); err != nil {
			return nil, err
		}
	}
	if w.name != name {
		return nil, poison("schema %d is a %s, not a %s", id, w.name, name)
	}
	if w.same {
		return value[wireHeader:], nil
	}
	return c.translate(w, value[wireHeader:])
}

// fetch asks the registry for a writer's schema and works out how to read it.
func (c *Codec) fetch(ctx context.Context, id int, name string) (*writer, error) {
	text, err := c.registry.SchemaByID(ctx, id)
	if err != nil {
		var missing interface{ NotFound() bool }
		if errors.As(err, &missing) && missing.NotFound() {
			return nil, poison("the registry has no schema %d", id)
		}
		return nil, fmt.Errorf("%w: schema %d: %w", ErrRegistry, id, err)
	}
	ours, err := c.schema(name)
	if err != nil {
		return nil, err
	}
	theirs, err := parseSchema(text)
	if err != nil {
		return nil, poison("schema %d: %v", id, err)
	}
	w := &writer{name: name, theirs: theirs}
	if w.same = theirs.Fingerprint() == ours.parsed.Fingerprint(); !w.same {
		if err := checkForeign(theirs); err != nil {
			return nil, poison("schema %d: %v", id, err)
		}
		if w.resolved, err = hamba.NewSchemaCompatibility().Resolve(ours.parsed, theirs); err != nil {
			return nil, poison("schema %d: %v", id, err)
		}
		w.extra = extraColumns(ours.parsed, theirs)
	}
	c.mu.Lock()
	c.writers[id] = w
	c.mu.Unlock()
	return w, nil
}

// translate rewrites a body from a writer's version of a schema to ours, by Avro's rules of schema resolution.
func (c *Codec) translate(w *writer, body []byte) (out []byte, err error) {
	ours, err := c.schema(w.name)
	if err != nil {
		return nil, err
	}
	if err := walkForeign(w.theirs, body); err != nil {
		return nil, err
	}
	// The library reads whatever a stranger's schema describes; a fault in it is the record's fault, not ours.
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, poison("%v", r)
		}
	}()
	api := hamba.Config{MaxByteSliceSize: maxText, MaxSliceAllocSize: maxText}.Freeze()
	var generic any
	if err := api.Unmarshal(w.resolved, body, &generic); err != nil {
		return nil, poison("%v", err)
	}
	out, err = api.Marshal(ours.parsed, generic)
	if err != nil {
		return nil, poison("%v", err)
	}
	if len(w.extra) == 0 {
		return out, nil
	}
	var written any
	if err := api.Unmarshal(w.theirs, body, &written); err != nil {
		return nil, poison("%v", err)
	}
	if !keepExtra(w.extra, generic, written) {
		return out, nil
	}
	with, err := api.Marshal(ours.parsed, generic)
	if err != nil {
		return nil, poison("%v", err)
	}
	if _, err := readEvent(tableOfSchema(w.name), with); err != nil {
		return out, nil // a column named like a group of ours, such as caller, has no place among the members
	}
	return with, nil
}
