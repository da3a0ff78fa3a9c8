//go:build !race

package integration

// raceDetector says that the suite runs with the race detector; the binaries it starts are built with it too.
const raceDetector = false
