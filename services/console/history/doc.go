// Package history keeps what became of every event in SQL: a projection of the event topics, the filter's decisions, the
// attempts to deliver and the dead letters. It holds rows to search by and pointers to the records; whatever is large is
// read from Kafka when somebody asks. Everything in it can be made again from Kafka.
//
// The merge of records into rows is commutative and idempotent: topics are read side by side, so an attempt may come
// before the decision that led to it, and after a crash records come again. Rows and the offsets behind them are written
// in one transaction, by one process at a time, so that each record counts once.
package history
