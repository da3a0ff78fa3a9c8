package event

import (
	"fmt"

	hamba "github.com/hamba/avro/v2"
)

// Records of other writers are read with a library that trusts counts: a block that claims 2^60 items of nothing keeps it
// busy for ever, and a schema that contains itself overflows its stack, which no recover catches. So a writer's schema is
// checked before the library resolves it, and each of its bodies is walked with our own reader, which trusts nothing,
// before the library sees it.

// maxNodes bounds a writer's schema with every reference written out. Ours have about 300.
const maxNodes = 10_000

// checkForeign refuses a schema that contains itself or is too large.
func checkForeign(schema hamba.Schema) error {
	nodes := 0
	open := map[hamba.Schema]bool{}
	var visit func(s hamba.Schema) error
	visit = func(s hamba.Schema) error {
		if nodes++; nodes > maxNodes {
			return fmt.Errorf("larger than %d types", maxNodes)
		}
		switch s := s.(type) {
		case *hamba.RefSchema:
			return visit(s.Schema())
		case *hamba.RecordSchema:
			if open[s] {
				return fmt.Errorf("%s contains itself", s.FullName())
			}
			open[s] = true
			defer delete(open, s)
			for _, f := range s.Fields() {
				if err := visit(f.Type()); err != nil {
					return err
				}
			}
		case *hamba.ArraySchema:
			return visit(s.Items())
		case *hamba.MapSchema:
			return visit(s.Values())
		case *hamba.UnionSchema:
			for _, t := range s.Types() {
				if err := visit(t); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return visit(schema)
}

// walkForeign reads a body by its writer's schema and keeps nothing.
func walkForeign(schema hamba.Schema, body []byte) error {
	r := reader{b: body}
	// Values that take no bytes are not bounded by the body's length.
	w := walker{&r, 4*len(body) + maxNodes}
	w.value(schema)
	return r.done()
}

type walker struct {
	*reader
	budget int // values that may still be read
}

func (w *walker) value(schema hamba.Schema) {
	if w.budget--; w.budget < 0 {
		w.fail("more values than a record of this size can hold")
	}
	if w.err != nil {
		return
	}
	switch s := schema.(type) {
	case *hamba.RefSchema:
		w.value(s.Schema())
	case *hamba.RecordSchema:
		for _, f := range s.Fields() {
			w.value(f.Type())
		}
	case *hamba.ArraySchema:
		w.blocks(func() { w.value(s.Items()) })
	case *hamba.MapSchema:
		w.blocks(func() {
			w.span()
			w.value(s.Values())
		})
	case *hamba.UnionSchema:
		if n := w.long(); n < 0 || n >= int64(len(s.Types())) {
			w.fail("no such branch of a union")
		} else {
			w.value(s.Types()[n])
		}
	case *hamba.EnumSchema:
		if n := w.int(); n < 0 || n >= int64(len(s.Symbols())) {
			w.fail("no such symbol of an enum")
		}
	case *hamba.FixedSchema:
		w.skip(s.Size())
	default:
		switch schema.Type() {
		case hamba.String, hamba.Bytes:
			w.span()
		case hamba.Int:
			w.int()
		case hamba.Long:
			w.long()
		case hamba.Float:
			w.skip(4)
		case hamba.Double:
			w.skip(8)
		case hamba.Boolean:
			w.bool()
		case hamba.Null:
		default:
			w.fail("a type that Avro doesn't have")
		}
	}
}

func (w *walker) skip(n int) {
	if n < 0 || n > len(w.b)-w.i {
		w.fail("cut short")
		return
	}
	w.i += n
}

// blocks reads an array or map. A block that says its size must say it truly, because the library skips by it.
func (w *walker) blocks(item func()) {
	for w.err == nil {
		n, size := w.long(), int64(-1)
		if n < 0 {
			n, size = -n, w.long()
			if size <= 0 {
				w.fail("a block without a size")
			}
		}
		if n == 0 || w.err != nil {
			return
		}
		if n < 0 || n > int64(w.budget) {
			w.fail("more items than a record of this size can hold")
			return
		}
		start := w.i
		for range n {
			if item(); w.err != nil {
				return
			}
		}
		if size >= 0 && int64(w.i-start) != size {
			w.fail("a block of another size than it says")
		}
	}
}
