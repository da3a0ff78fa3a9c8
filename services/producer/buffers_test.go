package producer

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A buffer is large enough, no larger than what is taken of the budget for it, and comes back empty at its whole size.
func TestBuffers(t *testing.T) {
	t.Parallel()
	var p buffers
	for size := 1; size <= 2*largestPooled; size *= 2 {
		for n := max(size-1, 1); n <= size+1; n++ {
			for range 3 {
				b := p.get(n)
				require.Empty(t, b)
				require.GreaterOrEqual(t, cap(b), n)
				require.Equal(t, sizeOf(n), cap(b), "for %d bytes", n)
				require.Less(t, cap(b), 2*n+1)
				p.put(append(b, 'x')[:1:cap(b)])
				p.put(make([]byte, 0, n)) // of any size
			}
		}
	}
}
