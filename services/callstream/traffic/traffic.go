// Package traffic makes up realistic events of a call centre: whole calls from the queue to the report, with the messages
// that follow them, the chats, agents and systems around them. The same seed makes the same events, id by id, so that a
// run can be repeated and audited.
//
// People and numbers are from the ranges reserved for fiction; addresses end in example.com.
package traffic

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"time"
)

// Model makes flows. It is safe for concurrent use.
type Model struct {
	// Seed decides everything about the events but their times.
	Seed uint64
	// Source is the events' source; empty leaves it out.
	Source string
}

// Event is one event in the JSON that the API takes.
type Event struct {
	ID     string
	Type   string
	CallID string // empty for events that belong to no call
	// At is when it happens, from the flow's start.
	At time.Duration
	// JSON is the whole event. Its times are only right after Flow.Stamp.
	JSON []byte

	stamps []stamp
}

// stamp is a time that stands in an event's JSON.
type stamp struct {
	pos int
	at  time.Duration
}

// Flow is a call and what happens around it, in the order of time.
type Flow struct {
	// Scenario names what kind of call it is.
	Scenario string
	Events   []Event
	// Length is the time from the first event to the last.
	Length time.Duration
}

// timeLayout has a fixed width, so that times can be filled in later. Milliseconds are what platforms report.
const timeLayout = "2006-01-02T15:04:05.000Z"

// Stamp writes the times into the events' JSON, for a flow that starts at start.
func (f *Flow) Stamp(start time.Time) {
	start = start.UTC().Truncate(time.Millisecond)
	var text [len(timeLayout) + 8]byte
	for _, e := range f.Events {
		for _, s := range e.stamps {
			// Not into place directly: AppendFormat writes more than it returns.
			copy(e.JSON[s.pos:], start.Add(s.at).AppendFormat(text[:0], timeLayout))
		}
	}
}

// BlockSize is the number of flows in which every scenario occurs in its exact share, so that short runs have them all.
const BlockSize = 20

// scenarios are the kinds of calls with their share of a block. The first flow of all is of the first kind.
var scenarios = []struct {
	name  string
	share int
	play  func(*call)
}{
	{"sale", 4, (*call).sale},
	{"support", 4, (*call).support},
	{"voicemail", 2, (*call).voicemail},
	{"no answer", 2, (*call).noAnswer},
	{"abandoned", 2, (*call).abandoned},
	{"warm transfer", 2, (*call).warmTransfer},
	{"escalation", 1, (*call).escalation},
	{"callback", 2, (*call).callback},
	{"claim", 1, (*call).claim},
}

// Flow makes the flow with the given number, counted from 0. Any BlockSize consecutive flows from a multiple of it hold
// every event type that a platform sends.
func (m *Model) Flow(number int64) Flow {
	block, place := number/BlockSize, int(number%BlockSize)
	order := make([]int, 0, BlockSize)
	for i, s := range scenarios {
		for range s.share {
			order = append(order, i)
		}
	}
	shuffle := rand.New(rand.NewPCG(m.Seed, ^uint64(block)))
	shuffle.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	if block == 0 {
		// Whoever simulates one call wants to see one that has everything.
		first := slices.Index(order, 0)
		order[0], order[first] = order[first], order[0]
	}
	scenario := scenarios[order[place]]
	c := newCall(m, number)
	scenario.play(c)
	c.aside(place)
	return c.flow(scenario.name)
}

// id makes an identifier of 128 bits in the letters of a ULID, from the seed, the flow and n.
func (m *Model) id(prefix string, number int64, n int) string {
	const letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	sum := m.hash(prefix, number, n)
	hi, lo := binary.BigEndian.Uint64(sum[:8]), binary.BigEndian.Uint64(sum[8:16])
	var out [26]byte
	for i := 25; i >= 0; i-- {
		out[i] = letters[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return prefix + string(out[:])
}

// hexID makes an identifier of 24 hexadecimal digits.
func (m *Model) hexID(kind string, number int64) string {
	sum := m.hash(kind, number, 0)
	return hex.EncodeToString(sum[:12])
}

func (m *Model) hash(kind string, number int64, n int) [32]byte {
	b := make([]byte, 0, 48)
	b = binary.BigEndian.AppendUint64(b, m.Seed)
	b = binary.BigEndian.AppendUint64(b, uint64(number))
	b = binary.BigEndian.AppendUint64(b, uint64(n))
	return sha256.Sum256(append(b, kind...))
}
