package kafka

import "time"

// Pressure is how near a partition is to standing still because its window is full.
type Pressure struct {
	TopicPartition
	// Watermark is the oldest offset that is not done, the one that holds the window back.
	Watermark int64
	// Span is how many offsets the window holds, SpanLimit from which on nothing more is handed out. The limit falls to
	// 23,936 while 1,000 or more offsets are open (see Window).
	Span, SpanLimit int64
	// Bytes of the records that are handed out and not done, and from which on nothing more is.
	Bytes, BytesLimit int64
	// Since is when a call of Loop.Pressure first found the watermark where it is, with work in hand. It is zero where none is.
	Since time.Time
}

// pressed is the state between two calls of Loop.Pressure: so a completion costs no look at the clock.
type pressed struct {
	watermark int64
	since     time.Time
}

// Pressure tells of each assigned partition, in no order. No lock is held during visit. How old Since can get to be known
// depends on how often this is called.
func (l *Loop) Pressure(visit func(Pressure)) {
	now := time.Now()
	for _, p := range l.everything() {
		visit(p.pressure(now))
	}
}

func (p *partition) pressure(now time.Time) Pressure {
	p.mu.Lock()
	defer p.mu.Unlock()
	mark := p.window.Watermark()
	switch {
	case p.inflight == 0:
		p.pressed = pressed{}
	case p.pressed.since.IsZero() || p.pressed.watermark != mark:
		p.pressed = pressed{mark, now}
	}
	return Pressure{
		TopicPartition: p.tp, Watermark: mark,
		Span: p.window.Span(), SpanLimit: p.window.Limit(),
		Bytes: p.inBytes, BytesLimit: p.l.cfg.Window.Bytes,
		Since: p.pressed.since,
	}
}
