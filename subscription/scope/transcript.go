package scope

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/callstream/callstream/schemas/event"
)

var (
	textPath    = []string{"data", "transcript_text"}
	snippetPath = []string{"data", "transcript_snippet"}
)

// maxSnippet is how much of a transcript a snippet is made of, in characters.
const maxSnippet = 200

// snippet makes the snippet of a transcript that comes without one.
type snippet struct{ hide redaction }

// newSnippet returns nil where the other rules don't let a subscription have the transcript, or a part of it.
func newSnippet(tree *place, sifted bool) *snippet {
	text, part := tree.sends(textPath, !sifted), tree.sends(snippetPath, !sifted)
	excluded := func(path []string) bool { return !tree.sends(path, true) }
	if excluded(textPath) || excluded(snippetPath) || !text && !part {
		return nil
	}
	return &snippet{}
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
	to.SetText("transcript_snippet", beginning(s.hide.text(e.Topic(), "transcript_text", text.String())))
}

// beginning cuts a text behind a word, and marks the cut.
func beginning(text string) string {
	text = strings.TrimSpace(text)
	if utf8.RuneCountInString(text) <= maxSnippet {
		return text
	}
	end, space, n := 0, 0, 0
	for i, r := range text {
		if n == maxSnippet {
			end = i
			if unicode.IsSpace(r) {
				space = i
			}
			break
		}
		if unicode.IsSpace(r) {
			space = i
		}
		n++
	}
	if space > end/2 { // else it is a script without spaces
		end = space
	}
	return strings.TrimRightFunc(text[:end], unicode.IsSpace) + "…"
}
