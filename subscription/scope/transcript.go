package scope

import (
	"slices"
	"strings"
	"unicode"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
)

var (
	textPath    = []string{"data", "transcript_text"}
	snippetPath = []string{"data", "transcript_snippet"}
)

// maxSnippet is how much of a transcript a snippet is made of, in characters.
const maxSnippet = 200

// snippet makes the snippet of a transcript that comes without one.
type snippet struct {
	hidden   bool // the text is of a class that is redacted
	patterns *patterns
}

// newSnippet returns nil where the other rules don't let a subscription have the transcript, or a part of it.
func newSnippet(tree *place, sifted bool, hide *redaction) *snippet {
	text, part := tree.sends(textPath, !sifted), tree.sends(snippetPath, !sifted)
	excluded := func(path []string) bool { return !tree.sends(path, true) }
	if excluded(textPath) || excluded(snippetPath) || !text && !part {
		return nil
	}
	return &snippet{
		hidden:   slices.ContainsFunc(hide.fields(topic.CallsEvents), func(path []string) bool { return slices.Equal(path, textPath) }),
		patterns: &hide.patterns,
	}
}

// add puts the beginning of e's transcript into to, which has lost the text. What is to be hidden is hidden first: a cut
// through a number would make one that nothing recognises.
func (s *snippet) add(to, e *event.Event) {
	text, ok := e.Lookup("data.transcript_text")
	if !ok || to == e || !text.IsText() {
		return
	}
	if _, has := e.Lookup("data.transcript_snippet"); has {
		return
	}
	part := event.Redacted
	if !s.hidden {
		part, _ = s.patterns.scrubber().Text("transcript_text", text.String())
		part = beginning(part)
	}
	to.SetText("transcript_snippet", part)
}

// beginning cuts a text behind a word, and marks the cut.
func beginning(text string) string {
	text = strings.TrimSpace(text)
	space, n := 0, 0 // where the last space stands, and the characters so far
	for i, r := range text {
		if unicode.IsSpace(r) {
			space = i
		}
		if n == maxSnippet {
			if space < i/2 { // a script without spaces
				space = i
			}
			return strings.TrimRightFunc(text[:space], unicode.IsSpace) + "…"
		}
		n++
	}
	return text
}
