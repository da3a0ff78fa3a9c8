package dispatcher

// ring is a queue of shards. A shard is in one ring at most, and can leave it from anywhere.
type ring struct{ first, last *shard }

func (r *ring) push(sh *shard) {
	sh.ring, sh.before, sh.after = r, r.last, nil
	if r.last == nil {
		r.first = sh
	} else {
		r.last.after = sh
	}
	r.last = sh
}

func (r *ring) pushFirst(sh *shard) {
	sh.ring, sh.before, sh.after = r, nil, r.first
	if r.first == nil {
		r.last = sh
	} else {
		r.first.before = sh
	}
	r.first = sh
}

// unlist takes a shard out of the ring that it is in.
func (sh *shard) unlist() {
	r := sh.ring
	if r == nil {
		return
	}
	if sh.before == nil {
		r.first = sh.after
	} else {
		sh.before.after = sh.after
	}
	if sh.after == nil {
		r.last = sh.before
	} else {
		sh.after.before = sh.before
	}
	sh.ring, sh.before, sh.after = nil, nil, nil
}
