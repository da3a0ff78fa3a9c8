//go:build !linux

package kafkatest

import "os/exec"

// dieWithParent can't be had here: a test process that is killed leaves its brokers running.
func dieWithParent(*exec.Cmd) {}
