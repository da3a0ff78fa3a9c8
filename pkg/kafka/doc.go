// Package kafka is everything that callstream does with a Kafka cluster: one configuration for all clients, a producer
// with bounded buffers and classes of errors, a reader of feeds, topics checked against their declaration, and the
// consume loop that hands out records, tracks what is done out of order and commits it.
//
// It knows no domain: no event, no subscription, no topic by name.
package kafka
