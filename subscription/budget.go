package subscription

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"

	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/overloads"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

// A call is charged before it runs, by the texts, lists and maps that it is given. Those that can run away in one go are
// bounded by themselves:
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
	// turnedBytes is the same of what goes through a text by its characters.
	turnedBytes = 5
	// zoneCost is what it takes to look up a time zone.
	zoneCost = 500
)

// callCost returns what it takes to call a function, in units.
func callCost(function string, args []ref.Val) int {
	cost := 0
	switch function {
	case operators.Equals, operators.NotEquals, operators.In:
		if _, isMap := args[1].(traits.Mapper); isMap && function == operators.In {
			return 0 // the search for a key
		}
		for _, v := range args {
			if isAggregate(v) {
				cost += comparedCost * (maxCompared - max(weigh(v, maxCompared), 0))
			}
		}
		return cost + min(textSize(args[0]), textSize(args[1]))/scannedBytes
	case operators.Add:
		return 0 // what it makes is charged
	case operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
		return min(textSize(args[0]), textSize(args[1])) / scannedBytes
	case "split", "strings.quote":
		return textSize(args[0])
	case "charAt", "lowerAscii", "upperAscii", "replace", "reverse", "substring", "trim":
		return textSize(args[0]) / turnedBytes
	case overloads.TimeGetFullYear, overloads.TimeGetMonth, overloads.TimeGetDayOfYear, overloads.TimeGetDayOfMonth, overloads.TimeGetDate,
		overloads.TimeGetDayOfWeek, overloads.TimeGetHours, overloads.TimeGetMinutes, overloads.TimeGetSeconds, overloads.TimeGetMilliseconds:
		if len(args) == 2 {
			return zoneCost
		}
	}
	for _, v := range args {
		if list, ok := v.(traits.Lister); ok && function != overloads.Size {
			cost += sizeOf(list)
		} else {
			cost += textSize(v) / scannedBytes
		}
	}
	return cost
}

// isCheap says of a function that it takes no longer on large values.
func isCheap(function string) bool {
	switch function {
	case operators.LogicalNot, operators.Negate, operators.Subtract, operators.Multiply, operators.Divide, operators.Modulo,
		overloads.TypeConvertType, overloads.TypeConvertDyn, "optional.of", "optional.none", "hasValue", "value":
		return true
	}
	return false
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

func equalBounded(a, b ref.Val) ref.Val {
	if isAggregate(a) && isAggregate(b) && (weigh(a, maxCompared) < 0 || weigh(b, maxCompared) < 0) {
		return types.NewErr("the values that are compared hold more than %d values", maxCompared)
	}
	return types.Equal(a, b)
}

func notEqualBounded(a, b ref.Val) ref.Val {
	switch equal := equalBounded(a, b); equal {
	case types.True:
		return types.False
	case types.False:
		return types.True
	default:
		return equal
	}
}

func addBounded(a, b ref.Val) ref.Val {
	adder, ok := a.(traits.Adder)
	if !ok {
		return types.MaybeNoSuchOverloadErr(a)
	}
	sum := adder.Add(b)
	if list, ok := sum.(traits.Lister); ok && sizeOf(list) > maxCompared {
		return types.NewErr("the sum is a list of more than %d values", maxCompared)
	}
	return sum
}

func inBounded(v, in ref.Val) ref.Val {
	container, ok := in.(traits.Container)
	if !ok {
		return types.MaybeNoSuchOverloadErr(in)
	}
	if _, isList := in.(traits.Lister); isList && (weigh(v, maxCompared) < 0 || weigh(in, maxCompared) < 0) {
		return types.NewErr("the list that is searched holds more than %d values", maxCompared)
	}
	return container.Contains(v)
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
	if aggregate, ok := v.(traits.Sizer); ok && isAggregate(v) && sizeOf(aggregate) > left {
		return -1 // before its keys are sorted
	}
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

// matches compiles the pattern of a call, and says what it takes on a text.
func matches(pattern interpreter.InterpretableV2) (func(text, _ ref.Val) ref.Val, func(args []ref.Val) int, error) {
	constant, ok := pattern.(interpreter.InterpretableConst)
	if !ok {
		return nil, nil, errors.New("matches wants its pattern as a constant text")
	}
	source, ok := constant.Value().(types.String)
	if !ok {
		return nil, nil, errors.New("matches wants its pattern as a text") // the checker has said so
	}
	size, err := regexSize(string(source))
	if err != nil {
		return nil, nil, err
	}
	compiled, err := regexp.Compile(string(source))
	if err != nil {
		return nil, nil, err
	}
	tooLong := func(v ref.Val) bool { return textSize(v)*size/regexSteps > expressionCost }
	return func(v, _ ref.Val) ref.Val {
			text, ok := v.(types.String)
			if !ok {
				return types.MaybeNoSuchOverloadErr(v)
			}
			if tooLong(v) {
				return types.NewErr("matches takes too long on a text of %d bytes", len(text))
			}
			return types.Bool(compiled.MatchString(string(text)))
		}, func(args []ref.Val) int {
			if tooLong(args[0]) {
				return 0 // it is not run
			}
			return textSize(args[0]) * size / regexSteps
		}, nil
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
