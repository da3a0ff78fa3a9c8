// Package storage keeps what the console is the truth for: subscriptions, API keys, the audit log and the outbox to the
// feeds. It is SQLite on one machine and PostgreSQL for anything bigger, behind one type with the same behaviour.
package storage
