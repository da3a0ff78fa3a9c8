package subscription

import (
	"cmp"
	"slices"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

// orderedValues turns Go's values into CEL's. Its maps are gone through in the order of their keys, not in Go's, which is
// another one each time: a template has to make the same bytes of an event that is read again.
type orderedValues struct{}

// NativeToValue is types.Adapter.
func (a orderedValues) NativeToValue(v any) ref.Val {
	switch v := v.(type) {
	case map[string]any:
		return orderedMap{types.NewStringInterfaceMap(a, v)}
	case []any:
		return types.NewDynamicList(a, v)
	}
	return types.DefaultTypeAdapter.NativeToValue(v)
}

// orderedMap has no Fold, CEL's faster way through a map, so that all go by the Iterator.
type orderedMap struct{ traits.Mapper }

func (m orderedMap) Iterator() traits.Iterator {
	type key struct {
		v    ref.Val
		text string
	}
	size, _ := m.Size().(types.Int)
	keys := make([]key, 0, size)
	for it := m.Mapper.Iterator(); it.HasNext() == types.True; {
		v := it.Next()
		text, _ := v.ConvertToType(types.StringType).(types.String)
		keys = append(keys, key{v, string(text)})
	}
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(cmp.Compare(a.text, b.text), cmp.Compare(a.v.Type().TypeName(), b.v.Type().TypeName()))
	})
	sorted := make([]ref.Val, len(keys))
	for i, k := range keys {
		sorted[i] = k.v
	}
	return types.NewRefValList(types.DefaultTypeAdapter, sorted).Iterator()
}

// orderLiterals does the same for the maps that an expression makes itself.
func orderLiterals(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	if literal, ok := i.(interpreter.InterpretableConstructor); ok && literal.Type() == types.MapType {
		return orderedLiteral{literal}, nil
	}
	return i, nil
}

type orderedLiteral struct {
	interpreter.InterpretableConstructor
}

func (l orderedLiteral) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	return inOrder(l.InterpretableConstructor.Exec(frame))
}

func (l orderedLiteral) Eval(vars interpreter.Activation) ref.Val {
	return inOrder(l.InterpretableConstructor.Eval(vars))
}

func inOrder(v ref.Val) ref.Val {
	if m, ok := v.(traits.Mapper); ok {
		return orderedMap{m}
	}
	return v // an error
}
