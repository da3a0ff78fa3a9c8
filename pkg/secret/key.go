package secret

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// KeyFile is the name of the generated key in the data directory.
const KeyFile = "encryption.key"

// ErrNoKey says that no key was configured and none may be generated here.
var ErrNoKey = errors.New("no encryption key: set CALLSTREAM_ENCRYPTION_KEY to 32 bytes in base64 or hex (openssl rand -base64 32), the same for every service")

// LoadKey returns the key that config holds, in base64 (standard or URL alphabet, padded or not) or hex. When config is
// empty and generate is set, the key is read from KeyFile in dataDir, or made there first. When it is empty and generate
// is not set, a key that is already in dataDir is used, else the error is ErrNoKey.
func LoadKey(config, dataDir string, generate bool) ([]byte, error) {
	if config = strings.TrimSpace(config); config != "" {
		key, err := parseKey(config)
		if err != nil {
			return nil, fmt.Errorf("CALLSTREAM_ENCRYPTION_KEY: %w", err)
		}
		return key, nil
	}
	if dataDir == "" {
		return nil, ErrNoKey
	}
	path := filepath.Join(dataDir, KeyFile)
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if !generate {
			return nil, ErrNoKey
		}
		if err := generateKey(path); err != nil {
			return nil, err
		}
		// Another process may have won the race for the name: what the file holds now is the key.
		key, err = readKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the encryption key: %w", err)
	}
	return key, nil
}

func readKey(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(strings.TrimSpace(string(raw)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// generateKey writes a new key under a temporary name, syncs it and links it to path, so that no reader ever sees half a
// key and no second process replaces the first one's: secrets sealed with a replaced key would be lost.
func generateKey(path string) error {
	key := make([]byte, KeySize)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("make an encryption key: %w", err)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	f, err := os.CreateTemp(dir, ".encryption-key-*") // 0600
	if err != nil {
		return fmt.Errorf("write the encryption key: %w", err)
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone already, or harmless
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Link(f.Name(), path)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("write the encryption key: %w", err)
	}
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync() // the name must survive a power loss as the key does
		d.Close()
	}
	return nil
}

func parseKey(s string) ([]byte, error) {
	if len(s) == 2*KeySize {
		if key, err := hex.DecodeString(s); err == nil {
			return key, nil
		}
	}
	bare := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(s, "="))
	key, err := base64.RawStdEncoding.DecodeString(bare)
	if err != nil || len(key) != KeySize {
		return nil, errors.New("want 32 bytes in base64 or hex")
	}
	return key, nil
}

// LoadBox returns a Box for the key that LoadKey finds.
func LoadBox(config, dataDir string, generate bool) (*Box, error) {
	key, err := LoadKey(config, dataDir, generate)
	if err != nil {
		return nil, err
	}
	return NewBox(key)
}
