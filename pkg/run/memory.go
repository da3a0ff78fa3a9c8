package run

import (
	"bytes"
	"os"
	"strconv"
)

// memoryAvailable returns the bytes that the process may use: its cgroup's limit, or the machine's memory where there is
// none. 0 means unknown, which it is anywhere but on Linux.
func memoryAvailable() int64 {
	return availableFrom(os.ReadFile)
}

func availableFrom(read func(string) ([]byte, error)) int64 {
	total := int64(0)
	if raw, err := read("/proc/meminfo"); err == nil {
		total = memTotal(raw)
	}
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		raw, err := read(file)
		if err != nil {
			continue
		}
		// "max", or an absurdly large number in version 1, means that there is no limit.
		limit, err := strconv.ParseInt(string(bytes.TrimSpace(raw)), 10, 64)
		if err == nil && limit > 0 && (total == 0 || limit < total) {
			return limit
		}
	}
	return total
}

func memTotal(meminfo []byte) int64 {
	for line := range bytes.Lines(meminfo) {
		fields := bytes.Fields(line)
		if len(fields) >= 2 && string(fields[0]) == "MemTotal:" {
			kib, err := strconv.ParseInt(string(fields[1]), 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}
