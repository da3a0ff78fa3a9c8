// Package dispatcher sends deliveries to their endpoints.
//
// A record of deliveries.<lane> is one rendered request for one subscription. The dispatcher signs and sends it, and every
// record ends in exactly one outcome: delivered, retry, dead or skipped, with a reason, or parked, where it was not tried
// at all. What follows from the outcome is written to Kafka (the attempt, the retry, the dead letter, a signal), and
// only when all of that is acknowledged the record's offset completes. So a crash at any moment repeats a request under
// the same webhook-id, and loses none.
//
//	record ─► Handle ─► queue of its subscription ─► worker ─► endpoint
//	            │                                     │
//	            │ over its share, breaker open        └─► outcome ─► deliveries.attempts, retry tier, dlq, signals ─► Done
//	            └─► deliveries.slow, or a retry tier
//
// Partition p of every lane, tier and of the slow topic has one owner, so a subscription's queue, limits and state live in
// one process for each of its partitions.
package dispatcher
