// Package producer takes events over HTTP and puts them on the event topics. A caller hears 202 only after the brokers
// acknowledged every event of its request, and a request is taken whole or not at all: whatever is wrong with one event
// refuses all of them before the first is produced.
//
// Nothing here grows without bound and nothing hangs. The bytes in flight are bounded: beyond them a request gets 429, or
// 503 when Kafka doesn't answer. Waiting for the brokers ends after Config.AckTimeout with a 503 that names the ids;
// repeating the events under those ids is safe, because an event is known by them.
package producer
