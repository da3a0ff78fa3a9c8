package event

import (
	"fmt"

	hamba "github.com/hamba/avro/v2"
)

// Compatible reports whether a new version of a schema is FULL_TRANSITIVE compatible: it reads what every old version
// wrote, and every old version reads what it writes. The error says which version isn't, and why.
func Compatible(newSchema string, old []string) error {
	next, err := parseSchema(newSchema)
	if err != nil {
		return fmt.Errorf("new schema: %w", err)
	}
	for i, text := range old {
		former, err := parseSchema(text)
		if err != nil {
			return fmt.Errorf("version %d: %w", i+1, err)
		}
		// A checker each: it caches by a fingerprint that leaves out defaults, which are half of what is asked here.
		if err := hamba.NewSchemaCompatibility().Compatible(next, former); err != nil {
			return fmt.Errorf("cannot read what version %d wrote: %w", i+1, err)
		}
		if err := hamba.NewSchemaCompatibility().Compatible(former, next); err != nil {
			return fmt.Errorf("version %d cannot read what it writes: %w", i+1, err)
		}
	}
	return nil
}
