package traffic

import (
	"math"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// object writes a JSON object, member by member. Empty strings, zero times and empty lists are left out.
type object struct {
	b      []byte
	stamps []stamp
}

func (o *object) name(name string) {
	if last := o.b[len(o.b)-1]; last != '{' && last != '[' {
		o.b = append(o.b, ',')
	}
	o.b = append(o.b, '"')
	o.b = append(o.b, name...)
	o.b = append(o.b, '"', ':')
}

// quote appends s as a JSON string. Our texts are valid UTF-8, so it can't fail.
func (o *object) quote(s string) {
	o.b, _ = jsontext.AppendQuote(o.b, s)
}

func (o *object) text(name, value string) {
	if value == "" {
		return
	}
	o.name(name)
	o.quote(value)
}

func (o *object) texts(name string, values ...string) {
	if len(values) == 0 {
		return
	}
	o.name(name)
	o.b = append(o.b, '[')
	for i, v := range values {
		if i > 0 {
			o.b = append(o.b, ',')
		}
		o.quote(v)
	}
	o.b = append(o.b, ']')
}

func (o *object) number(name string, v int64) {
	o.name(name)
	o.b = strconv.AppendInt(o.b, v, 10)
}

// milliseconds writes a length of time as a whole number.
func (o *object) milliseconds(name string, d time.Duration) { o.number(name, d.Milliseconds()) }

// decimal writes v with two decimals at most.
func (o *object) decimal(name string, v float64) {
	o.name(name)
	o.b = strconv.AppendFloat(o.b, math.Round(v*100)/100, 'f', -1, 64)
}

func (o *object) boolean(name string, v bool) {
	o.name(name)
	o.b = strconv.AppendBool(o.b, v)
}

// time reserves the room of a time that is known once the flow's start is.
func (o *object) time(name string, at time.Duration) {
	o.name(name)
	o.b = append(o.b, '"')
	o.stamps = append(o.stamps, stamp{pos: len(o.b), at: at.Truncate(time.Millisecond)})
	o.b = append(o.b, timeLayout...)
	o.b = append(o.b, '"')
}

// group writes a nested object.
func (o *object) group(name string, write func(*object)) {
	o.name(name)
	o.b = append(o.b, '{')
	write(o)
	o.b = append(o.b, '}')
}
