// Package console is the service that people and programs manage callstream with: subscriptions and API keys, whose
// truth is its SQL database and whose changes it publishes on the feeds that the other services read. Events flow on
// without it.
package console
