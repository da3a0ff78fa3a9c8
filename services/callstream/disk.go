package callstream

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// leastRoom is the free space below which the embedded broker may not be able to take another batch.
const leastRoom = 8 << 20

// freeUnder is how many bytes may be written under a directory; where it doesn't exist yet, under the nearest above it.
func freeUnder(dir string) (uint64, error) {
	for {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			break
		}
		dir = parent
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, err
	}
	switch {
	case fs.Blocks == 0: // a file system in memory without a bound, and some in user space
		return 0, fmt.Errorf("the file system of %s doesn't tell its size", dir)
	case os.Geteuid() == 0: // what is kept for the superuser
		fs.Bavail = fs.Bfree
	}
	return fs.Bavail * uint64(fs.Bsize), nil //nolint:gosec,unconvert // the type differs between systems, and is never negative
}

// room is an error where less than least is free under a directory. Where that can't be told it is nil: whoever writes there
// will tell.
func room(dir string, least uint64) error {
	if free, err := freeUnder(dir); err == nil && free < least {
		return fmt.Errorf("the disk is full: %s free under %s; make room there", size(free), dir)
	}
	return nil
}
