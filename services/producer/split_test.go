package producer

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func texts(parts []part) []string {
	var out []string
	for _, p := range parts {
		out = append(out, string(p.raw))
	}
	return out
}

func TestSplit(t *testing.T) {
	for body, want := range map[string][]string{
		`{"a":1}`:                  {`{"a":1}`},
		` {"a":1} `:                {` {"a":1} `},
		`3`:                        {`3`},
		`[]`:                       nil,
		` [ ] `:                    nil,
		`[1]`:                      {`1`},
		`[ {"a":[1,{"b":2}]} , 2]`: {`{"a":[1,{"b":2}]}`, `2`},
		`["],[\"\\",{}]`:           {`"],[\"\\"`, `{}`},
		`["\\\\"]`:                 {`"\\\\"`},
		`[{"a":1}{"b":2}]`:         {`{"a":1}{"b":2}`}, // for the parser to refuse
	} {
		parts, err := split(nil, []byte(body), 100)
		require.NoError(t, err, body)
		require.Equal(t, want, texts(parts), body)
		for _, p := range parts {
			require.Equal(t, string(p.raw), body[p.offset:p.offset+len(p.raw)])
		}
	}
}

func TestWhatCantBeSplit(t *testing.T) {
	for body, want := range map[string]string{
		``:           "the body is empty; it must hold an event or an array of events",
		" \n ":       "the body is empty; it must hold an event or an array of events",
		`[`:          "the array has no end",
		`[1`:         "the array has no end",
		`[1,`:        "the array has no end",
		`[1,]`:       "a value is missing",
		`[,1]`:       "a value is missing",
		`[1}`:        "a } closes nothing",
		`["a]`:       "a string has no end",
		`["a\"]`:     "a string has no end",
		`[[}]]`:      "there is more after the array",
		`[1] 2`:      "there is more after the array",
		`[] []`:      "there is more after the array",
		`[{"a":1}]]`: "there is more after the array",
	} {
		_, err := split(nil, []byte(body), 100)
		require.EqualError(t, err, want, body)
	}
}

func TestSplitStopsOneAboveTheLimit(t *testing.T) {
	parts, err := split(nil, []byte(`[1,2,3,4`), 2)
	require.NoError(t, err)
	require.Len(t, parts, 3)
	parts, err = splitLines(nil, []byte("1\n2\n3\n4"), 2)
	require.NoError(t, err)
	require.Len(t, parts, 3)
}

func TestSplitLines(t *testing.T) {
	parts, err := splitLines(nil, []byte("{\"a\":1}\r\n\n  \n {\"b\":2} \n{\"c\":3}"), 100)
	require.NoError(t, err)
	require.Equal(t, []string{`{"a":1}`, `{"b":2}`, `{"c":3}`}, texts(parts))
	require.Equal(t, []int{1, 4, 5}, []int{parts[0].line, parts[1].line, parts[2].line})
	require.Equal(t, []int{0, 1, 2}, []int{parts[0].index, parts[1].index, parts[2].index})
	for _, body := range []string{"", "\n\n", " \r\n"} {
		_, err := splitLines(nil, []byte(body), 100)
		require.Error(t, err)
	}
}

func TestPosition(t *testing.T) {
	body := []byte("ab\ncd\n")
	require.Equal(t, "line 1, column 1", position(body, 0))
	require.Equal(t, "line 1, column 3", position(body, 2))
	require.Equal(t, "line 2, column 2", position(body, 4))
	require.Equal(t, "line 3, column 1", position(body, 99))
}

// FuzzSplit: a body is a valid array exactly if it can be split into valid values, and then they are its elements.
func FuzzSplit(f *testing.F) {
	for _, seed := range []string{`[1,"a",{"b":[null]}]`, `[]`, `[1,]`, `[{"a":"],"},2]`, `[[[[`, `["\\\"",{}]`, `[1}`, ` [ 1 , 2 ] `, `[{}]]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if i := skipSpace(body, 0); i == len(body) || body[i] != '[' {
			return
		}
		parts, err := split(nil, body, len(body)+1)
		valid := err == nil
		for _, p := range parts {
			valid = valid && json.Valid(p.raw)
		}
		require.Equal(t, json.Valid(body), valid)
		if !valid {
			return
		}
		var elements []json.RawMessage
		require.NoError(t, json.Unmarshal(body, &elements))
		require.Len(t, parts, len(elements))
		for i := range elements {
			require.Equal(t, string(elements[i]), string(parts[i].raw))
			require.Equal(t, i, parts[i].index)
		}
	})
}

// FuzzSplitLines: lines keep their numbers, and nothing but white space is lost.
func FuzzSplitLines(f *testing.F) {
	f.Add([]byte("{}\n{}\r\n\n[1]"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		parts, err := splitLines(nil, body, len(body)+1)
		lines := bytes.Split(body, []byte{'\n'})
		var want []string
		for i, line := range lines {
			if text := strings.Trim(string(line), " \t\r"); text != "" {
				want = append(want, strconv.Itoa(i+1)+":"+text)
			}
		}
		var got []string
		for _, p := range parts {
			got = append(got, strconv.Itoa(p.line)+":"+string(p.raw))
		}
		require.True(t, slices.Equal(want, got))
		require.Equal(t, len(want) == 0, err != nil)
	})
}
