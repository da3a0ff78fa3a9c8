// Package subscription is the model of a subscription: what a customer may ask for, the rules it has to keep, how it
// changes, and how it travels on the feed. The console stores it, the filter matches with it and the dispatcher sends
// by it, all through this package.
package subscription
