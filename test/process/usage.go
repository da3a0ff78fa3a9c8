package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
)

// clockTick is the unit of /proc/<pid>/stat, the same on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

var errProc = errors.New("not what proc(5) describes")

// CPU is the processor time that the process has used, to 10 ms.
func (p *Process) CPU() (time.Duration, error) { return CPU(p.cmd.Process.Pid) }

// Resident is the memory of the process that is in RAM, in bytes.
func (p *Process) Resident() (int64, error) { return Resident(p.cmd.Process.Pid) }

// CPU is the processor time that a process has used, to 10 ms.
func CPU(pid int) (time.Duration, error) {
	name := fmt.Sprintf("/proc/%d/stat", pid)
	raw, err := os.ReadFile(name)
	if err != nil {
		return 0, fmt.Errorf("read a process's CPU time: %w", err)
	}
	// The second field is the program's name in parentheses, and may hold anything; the 14th and 15th are user and system time.
	fields := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("%s: %w", name, errProc)
	}
	user, err1 := strconv.ParseInt(string(fields[11]), 10, 64)
	system, err2 := strconv.ParseInt(string(fields[12]), 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return time.Duration(user+system) * clockTick, nil
}

// Resident is the memory of a process that is in RAM, in bytes.
func Resident(pid int) (int64, error) {
	name := fmt.Sprintf("/proc/%d/status", pid)
	raw, err := os.ReadFile(name)
	if err != nil {
		return 0, fmt.Errorf("read a process's memory: %w", err)
	}
	for line := range bytes.Lines(raw) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			fields := bytes.Fields(rest)
			if len(fields) == 0 {
				break
			}
			kib, err := strconv.ParseInt(string(fields[0]), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", name, err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("%s: %w", name, errProc)
}
