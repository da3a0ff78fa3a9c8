package callstream

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/callstream/callstream/services/callstream/traffic"
)

// ledger is a file with a line for each event that the API has accepted, to hold deliveries against later.
type ledger struct {
	mu     sync.Mutex
	file   *os.File
	out    *bufio.Writer
	tenant string
}

// entry is a line of the ledger.
type entry struct {
	ID     string `json:"id"`
	Type   string `json:"type"`
	CallID string `json:"call_id,omitempty"`
	Tenant string `json:"tenant"`
}

// openLedger makes the file, or empties it.
func openLedger(name, tenant string) (*ledger, error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, fmt.Errorf("--ledger: %w", err)
	}
	return &ledger{file: f, out: bufio.NewWriterSize(f, 64<<10), tenant: tenant}, nil
}

// add writes events that were accepted together. They are in the file at once, so that a killed run leaves a true one.
func (l *ledger) add(events []traffic.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	enc := json.NewEncoder(l.out)
	for _, e := range events {
		if err := enc.Encode(entry{ID: e.ID, Type: e.Type, CallID: e.CallID, Tenant: l.tenant}); err != nil {
			return fmt.Errorf("--ledger: %w", err)
		}
	}
	if err := l.out.Flush(); err != nil {
		return fmt.Errorf("--ledger: %w", err)
	}
	return nil
}

func (l *ledger) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := errors.Join(l.out.Flush(), l.file.Sync(), l.file.Close()); err != nil {
		return fmt.Errorf("--ledger: %w", err)
	}
	return nil
}
