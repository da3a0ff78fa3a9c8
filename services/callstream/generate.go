package callstream

//go:generate go run ./internal/docgen ../../docs
