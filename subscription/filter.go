package subscription

import (
	"github.com/google/cel-go/common/types"

	"github.com/callstream/callstream/schemas/event"
)

// Filter is a compiled CEL expression over event that says whether an event is wanted. It is safe for concurrent use.
type Filter struct{ expression }

// CompileFilter compiles a CEL expression that yields true or false. A bad one is an *ExpressionError.
func CompileFilter(source string) (*Filter, error) {
	x, err := compileExpression(source)
	if err != nil {
		return nil, err
	}
	if !x.yields.IsExactType(types.BoolType) && !x.yields.IsExactType(types.DynType) {
		return nil, &ExpressionError{Line: 1, Column: 1, Detail: "the expression yields " + x.yields.String() + ", not true or false"}
	}
	return &Filter{*x}, nil
}

// Source returns the expression.
func (f *Filter) Source() string { return f.source }

// Match runs the filter on an event. When it does not match, reason is ReasonFiltered, ReasonMissingField or
// ReasonFilterError, and detail says more for a person: of ReasonFiltered it is the filter itself, of ReasonMissingField the
// member. A nil Filter matches everything.
func (f *Filter) Match(e *event.Event) (matched bool, reason, detail string) { return f.within(nil, e) }

func (f *Filter) within(a *Allowance, e *event.Event) (matched bool, reason, detail string) {
	if f == nil {
		return true, "", ""
	}
	return f.match(e.Map(), a)
}

// Allowance is what the filters of one event may take together, so that a tenant with many that run away holds up the
// others no longer than one with a few. It counts what they do, not the time: an event that is read again is decided the
// same. The zero value is a new event's; nil stands for one filter alone.
type Allowance struct{ spent int }

func (a *Allowance) left() int {
	if a == nil {
		return expressionCost
	}
	return max(min(eventCost-a.spent, expressionCost), leastCost)
}

func (a *Allowance) spend(units int) {
	if a != nil {
		a.spent += units
	}
}

func (f *Filter) match(members map[string]any, a *Allowance) (matched bool, reason, detail string) {
	units := a.left()
	out, spent, tooLong, err := f.evaluate(members, units)
	a.spend(spent)
	switch {
	case tooLong && units < expressionCost:
		return false, ReasonFilterError, "the filters of all subscriptions together take too long on this event"
	case tooLong:
		return false, ReasonFilterError, "the filter takes too long on this event"
	case err != nil:
		if name, missing := f.missing(members, err); missing {
			return false, ReasonMissingField, name
		}
		return false, ReasonFilterError, shorten(err.Error())
	case out == types.True:
		return true, "", ""
	case out == types.False:
		return false, ReasonFiltered, f.brief
	}
	return false, ReasonFilterError, "the filter yields " + out.Type().TypeName() + ", not true or false"
}
