// Package avro holds the Avro schemas of every record that callstream puts on a topic: the .avsc files beside this one
// are their only definition. Everything in Go that mirrors them is generated from these files.
package avro

import "embed"

// Files holds the .avsc files.
//
//go:embed *.avsc
var Files embed.FS
