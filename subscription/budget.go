package subscription

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/overloads"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

// CEL's budget is charged for a call once it has returned, and where the types of its arguments are only known then, as
// those of an event are, it is charged one unit whatever it does. So the calls that can take long are charged here, by what
// they do, and those that can run away in one go are bounded before they run:
//
//   - Comparisons of lists and maps. [a, a] costs nothing to make and holds a twice; thirty of those inside each other
//     take a billion steps to compare.
//   - Sums of lists, which double in each step and take nothing to make.
//   - Regular expressions, whose time grows with the text times the program that a pattern becomes: a{1000} has seven
//     characters and a thousand instructions.
const (
	// maxCompared is how many values a comparison looks at on either side, and how long a list gets.
	maxCompared = 10_000
	// What one of them costs to look at, in units of CEL's.
	comparedCost = 10
	// regexSteps is how many instructions on how many bytes cost one unit.
	regexSteps = 100
	// madeBytes is how many bytes of a text cost one unit to make, scannedBytes to look through.
	madeBytes, scannedBytes = 10, 50
	// zoneCost is what it takes to look up a time zone.
	zoneCost = 500
)

// budget bounds one program. It is interpreter.ActualCostEstimator.
type budget struct {
	programs map[string]int // instructions of each constant pattern
}

// options are what makes a program keep within bounds.
func (b *budget) options() []cel.ProgramOption {
	return []cel.ProgramOption{cel.CustomDecoratorV2(b.bound), cel.CostTracking(b), cel.CostLimit(expressionCost)}
}

// CallCost returns what a call cost, or nil for what CEL charges. The functions of its strings extension charge by
// themselves.
func (b *budget) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	cost := 1
	switch function {
	case operators.Equals, operators.NotEquals, operators.In:
		if !isAggregate(args[0]) && !isAggregate(args[1]) {
			return nil
		}
		if _, isMap := args[1].(traits.Mapper); isMap && function == operators.In {
			return nil // the search for a key
		}
		for _, v := range args {
			cost += comparedCost * (maxCompared - max(weigh(v, maxCompared), 0))
		}
	case matchesBounded:
		if types.IsError(result) {
			break // it was not run
		}
		pattern, _ := args[1].(types.String)
		cost += textSize(args[0]) * b.programs[string(pattern)] / regexSteps
	case operators.Add:
		cost += textSize(result) / madeBytes
	case operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
		cost += min(textSize(args[0]), textSize(args[1])) / scannedBytes
	case overloads.Size, overloads.TypeConvertInt, overloads.TypeConvertUint, overloads.TypeConvertDouble, overloads.TypeConvertBool,
		overloads.TypeConvertString, overloads.TypeConvertBytes, overloads.TypeConvertTimestamp, overloads.TypeConvertDuration:
		cost += textSize(args[0]) / scannedBytes
	case overloads.TimeGetFullYear, overloads.TimeGetMonth, overloads.TimeGetDayOfYear, overloads.TimeGetDayOfMonth, overloads.TimeGetDate,
		overloads.TimeGetDayOfWeek, overloads.TimeGetHours, overloads.TimeGetMinutes, overloads.TimeGetSeconds, overloads.TimeGetMilliseconds:
		if len(args) == 2 {
			cost += zoneCost
		}
	}
	if cost == 1 && function != matchesBounded {
		return nil // as CEL has it, without an allocation
	}
	charged := uint64(cost)
	return &charged
}

// textSize is the length of a text in bytes, 0 for anything else.
func textSize(v ref.Val) int {
	switch v := v.(type) {
	case types.String:
		return len(v)
	case types.Bytes:
		return len(v)
	}
	return 0
}

// bound replaces the calls that need bounds as the program is planned.
func (b *budget) bound(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	call, ok := i.(interpreter.InterpretableCall)
	if !ok || len(call.Args()) != 2 {
		return i, nil
	}
	isConst := func(n int) bool { _, ok := call.Args()[n].(interpreter.InterpretableConst); return ok }
	as := func(impl func(args ...ref.Val) ref.Val) (interpreter.InterpretableV2, error) {
		return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), impl), nil
	}
	switch call.Function() {
	case operators.Equals:
		if isConst(0) || isConst(1) {
			return i, nil
		}
		return as(equalBounded)
	case operators.NotEquals:
		if isConst(0) || isConst(1) {
			return i, nil
		}
		return as(func(args ...ref.Val) ref.Val {
			switch equal := equalBounded(args...); equal {
			case types.True:
				return types.False
			case types.False:
				return types.True
			default:
				return equal
			}
		})
	case operators.Add:
		switch call.OverloadID() {
		case "", overloads.AddList: // the first stands for any
			return as(addBounded)
		}
		return i, nil
	case operators.In:
		if isConst(1) {
			return i, nil
		}
		return as(inBounded)
	case overloads.Matches:
		pattern, ok := call.Args()[1].(interpreter.InterpretableConst)
		if !ok {
			return nil, errors.New("matches wants its pattern as a constant text")
		}
		return b.matches(call, pattern.Value())
	}
	return i, nil
}

func equalBounded(args ...ref.Val) ref.Val {
	if isAggregate(args[0]) && isAggregate(args[1]) && (weigh(args[0], maxCompared) < 0 || weigh(args[1], maxCompared) < 0) {
		return types.NewErr("the values that are compared hold more than %d values", maxCompared)
	}
	return types.Equal(args[0], args[1])
}

func addBounded(args ...ref.Val) ref.Val {
	a, ok := args[0].(traits.Adder)
	if !ok {
		return types.MaybeNoSuchOverloadErr(args[0])
	}
	sum := a.Add(args[1])
	if list, ok := sum.(traits.Lister); ok {
		if n, ok := list.Size().(types.Int); ok && n > maxCompared {
			return types.NewErr("the sum is a list of more than %d values", maxCompared)
		}
	}
	return sum
}

func inBounded(args ...ref.Val) ref.Val {
	container, ok := args[1].(traits.Container)
	if !ok {
		return types.MaybeNoSuchOverloadErr(args[1])
	}
	if _, isList := args[1].(traits.Lister); isList && (weigh(args[0], maxCompared) < 0 || weigh(args[1], maxCompared) < 0) {
		return types.NewErr("the list that is searched holds more than %d values", maxCompared)
	}
	return container.Contains(args[0])
}

func isAggregate(v ref.Val) bool {
	switch v.(type) {
	case traits.Lister, traits.Mapper, *types.Optional:
		return true
	}
	return false
}

// weigh counts the values in v, as often as each is held, and returns how many of `left` remain: less than 0 when there are
// more than that.
func weigh(v ref.Val, left int) int {
	left--
	switch v := v.(type) {
	case traits.Lister:
		for it := v.Iterator(); left >= 0 && it.HasNext() == types.True; {
			left = weigh(it.Next(), left)
		}
	case traits.Mapper:
		for it := v.Iterator(); left >= 0 && it.HasNext() == types.True; {
			left = weigh(v.Get(it.Next()), left)
		}
	case *types.Optional:
		if v.HasValue() {
			left = weigh(v.GetValue(), left)
		}
	}
	return left
}

// matchesBounded is another name for matches, because CEL would put its own in the place of that.
const matchesBounded = "@matches"

// matches returns the call with its pattern compiled.
func (b *budget) matches(call interpreter.InterpretableCall, pattern ref.Val) (interpreter.InterpretableV2, error) {
	source, ok := pattern.(types.String)
	if !ok {
		return call, nil // the checker has said so
	}
	size, err := regexSize(string(source))
	if err != nil {
		return nil, err
	}
	compiled, err := regexp.Compile(string(source))
	if err != nil {
		return nil, err
	}
	b.programs[string(source)] = size
	return interpreter.NewCall(call.ID(), matchesBounded, call.OverloadID(), call.Args(), func(args ...ref.Val) ref.Val {
		text, ok := args[0].(types.String)
		if !ok {
			return types.MaybeNoSuchOverloadErr(args[0])
		}
		if len(text)*size/regexSteps > expressionCost {
			return types.NewErr("matches takes too long on a text of %d bytes", len(text))
		}
		return types.Bool(compiled.MatchString(string(text)))
	}), nil
}

// regexSize returns how many instructions a pattern becomes.
func regexSize(pattern string) (int, error) {
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return 0, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return 0, err
	}
	if n := len(program.Inst); n > maxRegexProgram {
		return 0, fmt.Errorf("the pattern becomes a program of %d instructions, more than %d", n, maxRegexProgram)
	}
	return len(program.Inst), nil
}
