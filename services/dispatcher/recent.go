package dispatcher

// recent is a bounded map of what was noted last: it forgets the older half when the newer one has as many as most.
type recent[K comparable, V any] struct {
	most int
	by   [2]map[K]V // the newer half first
}

// get is what was noted of a key; its zero value where nothing was, or where it is forgotten.
func (r *recent[K, V]) get(key K) V {
	if v, ok := r.by[0][key]; ok {
		return v
	}
	return r.by[1][key]
}

func (r *recent[K, V]) put(key K, value V) {
	if _, known := r.by[0][key]; !known && (r.by[0] == nil || len(r.by[0]) >= r.most) {
		r.by = [2]map[K]V{{}, r.by[0]}
	}
	r.by[0][key] = value
}
