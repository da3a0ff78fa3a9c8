package run

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAvailableMemory(t *testing.T) {
	const meminfo = "MemTotal:       2048 kB\nMemFree:   10 kB\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"nothing known":            {nil, 0},
		"no cgroup":                {map[string]string{"/proc/meminfo": meminfo}, 2 << 20},
		"cgroup 2":                 {map[string]string{"/proc/meminfo": meminfo, "/sys/fs/cgroup/memory.max": "1048576\n"}, 1 << 20},
		"cgroup 2, unlimited":      {map[string]string{"/proc/meminfo": meminfo, "/sys/fs/cgroup/memory.max": "max\n"}, 2 << 20},
		"cgroup 1, as unlimited":   {map[string]string{"/proc/meminfo": meminfo, "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 2 << 20},
		"cgroup above the machine": {map[string]string{"/proc/meminfo": meminfo, "/sys/fs/cgroup/memory.max": "4194304"}, 2 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, availableFrom(func(name string) ([]byte, error) {
				if text, ok := c.files[name]; ok {
					return []byte(text), nil
				}
				return nil, os.ErrNotExist
			}))
		})
	}
}
