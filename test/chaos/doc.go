// Package chaos holds the fault tests: they run the real programs as processes on a cluster of three Apache Kafka
// brokers (or, where it is about that, on the embedded one), break something while events flow, and then go through a ledger.
// Every event that got a 202 must have come to an end for every subscription: delivered, dead or skipped, each on record.
//
// They have the build tag chaos, because they take minutes and need Java and Maven, one of them root:
//
//	make chaos
//	go test -tags chaos -count 1 -v -run TestBrokerKilled ./test/chaos
//
// What is random follows from a seed that each test prints; CALLSTREAM_CHAOS_SEED repeats it. CALLSTREAM_CHAOS_ROUNDS says how
// often each fault happens.
package chaos
