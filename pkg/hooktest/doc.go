// Package hooktest is an endpoint for tests and benchmarks: it answers webhooks as the test says, remembers them in order,
// verifies their signatures with code of its own, and lets a test wait until what it expects has arrived.
package hooktest
