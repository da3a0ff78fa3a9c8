// Package filter decides, for every event, which subscriptions get it and what they are sent. It reads the five event
// topics, renders each delivery's body once, and writes the deliveries, the decisions and what cannot be delivered, at
// least once and deterministically: an event that is read again after a crash makes the same deliveries, byte for byte.
package filter
