package kafka

import (
	"sync"
	"time"

	"go.uber.org/zap/zapcore"
)

// quiet lets each message through once a minute. zap's own sampler does it too, with counters of half a megabyte; a program
// of ours has more than a dozen clients, and what lives in the heap counts five times.
type quiet struct {
	zapcore.Core
	said *said
}

// said is when a message was let through last. The client's messages are constants, so there are not many.
type said struct {
	mu   sync.Mutex
	last map[saying]time.Time
}

type saying struct {
	level   zapcore.Level
	message string
}

func newQuiet(core zapcore.Core) zapcore.Core {
	return &quiet{Core: core, said: &said{last: make(map[saying]time.Time)}}
}

// With is the same core with further fields: what was said by the one was said by the other.
func (q *quiet) With(fields []zapcore.Field) zapcore.Core {
	return &quiet{Core: q.Core.With(fields), said: q.said}
}

// Check passes on what was not said for a minute.
func (q *quiet) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !q.Enabled(e.Level) || !q.said.again(saying{e.Level, e.Message}, e.Time) {
		return to
	}
	return q.Core.Check(e, to)
}

func (s *said) again(what saying, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.last[what]; ok && now.Sub(last) < time.Minute {
		return false
	}
	s.last[what] = now
	return true
}
