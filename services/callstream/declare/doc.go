// Package declare reads files that say which subscriptions a tenant is to have, and plans how to get there from those it
// has. It does no I/O but reading: the command line asks the API and carries plans out.
//
// An entry is identified by its name, which must be unique in the files: names are what people know a subscription by in
// every installation, whereas ids differ. Whoever renames one says what it was called, with `was`.
package declare
