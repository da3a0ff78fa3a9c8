package producer

import (
	"math/bits"
	"sync"
)

// largestPooled is the largest buffer that is kept for another request.
const largestPooled = pooledBytes << (sizes - 1)

// sizes is how many sizes of buffers are kept: each twice the one before, from pooledBytes on.
const sizes = 5

// buffers keeps the large buffers of requests with many events for other requests, by their size. A batch doesn't keep
// them itself: then each batch would end up with the buffers of the largest request that it ever held. What nobody asks for
// goes with the second garbage collection.
type buffers [sizes]sync.Pool

// class is the index of the smallest size that n bytes fit into.
func class(n int) int { return bits.Len(uint(max(n-1, 0)) / pooledBytes) }

// sizeOf is the capacity of the buffer that get returns for n.
func sizeOf(n int) int {
	if n < pooledBytes || n > largestPooled {
		return n
	}
	return pooledBytes << class(n)
}

// get returns an empty buffer of sizeOf(n) bytes.
func (p *buffers) get(n int) []byte {
	size := sizeOf(n)
	if size >= pooledBytes && size <= largestPooled {
		if kept, ok := p[class(size)].Get().(*[]byte); ok {
			return *kept
		}
	}
	return make([]byte, 0, size)
}

// put takes back a buffer that nothing refers to. One of another size than those that get returns is not kept.
func (p *buffers) put(b []byte) {
	if size := cap(b); size >= pooledBytes && size <= largestPooled && size == sizeOf(size) {
		b = b[:0]
		p[class(size)].Put(&b)
	}
}
