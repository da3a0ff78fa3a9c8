package secret_test

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/callstream/callstream/pkg/secret"
	"github.com/stretchr/testify/require"
)

func key() []byte { return []byte(strings.Repeat("k", secret.KeySize)) }

func TestASecretOpensOnlyInItsPlace(t *testing.T) {
	box, err := secret.NewBox(key())
	require.NoError(t, err)
	sealed, err := box.Seal([]byte("geheim"), "acme", "sub_1", "auth.token")
	require.NoError(t, err)
	require.NotContains(t, sealed, "geheim")
	plain, err := box.Open(sealed, "acme", "sub_1", "auth.token")
	require.NoError(t, err)
	require.Equal(t, "geheim", string(plain))
	again, err := box.Seal([]byte("geheim"), "acme", "sub_1", "auth.token")
	require.NoError(t, err)
	require.NotEqual(t, sealed, again, "a nonce of its own")

	for _, place := range [][3]string{{"other", "sub_1", "auth.token"}, {"acme", "sub_2", "auth.token"}, {"acme", "sub_1", "auth.value"}, {"acmes", "ub_1", "auth.token"}, {"acme", "sub_1auth.", "token"}} {
		_, err := box.Open(sealed, place[0], place[1], place[2])
		require.ErrorIs(t, err, secret.ErrSealed, place)
	}
	other, err := secret.NewBox([]byte(strings.Repeat("x", secret.KeySize)))
	require.NoError(t, err)
	_, err = other.Open(sealed, "acme", "sub_1", "auth.token")
	require.ErrorIs(t, err, secret.ErrSealed)
	for i := range len(sealed) {
		changed := []byte(sealed)
		changed[i] ^= 1
		if _, err := box.Open(string(changed), "acme", "sub_1", "auth.token"); err == nil {
			// The last character of base64 may hold bits that carry nothing.
			require.Equal(t, len(sealed)-1, i)
		}
	}
	for _, bad := range []string{"", "v1.", "v1.!!", "v2." + sealed[3:], sealed[3:]} {
		_, err := box.Open(bad, "acme", "sub_1", "auth.token")
		require.ErrorIs(t, err, secret.ErrSealed, bad)
	}
	_, err = secret.NewBox(key()[:16])
	require.Error(t, err)
}

func TestLoadingTheKey(t *testing.T) {
	for _, config := range []string{base64.StdEncoding.EncodeToString(key()), base64.RawURLEncoding.EncodeToString(key()), hex.EncodeToString(key()), " " + hex.EncodeToString(key()) + "\n"} {
		got, err := secret.LoadKey(config, "", false)
		require.NoError(t, err)
		require.Equal(t, key(), got)
	}
	for _, bad := range []string{"short", hex.EncodeToString(key()[:16]), strings.Repeat("z", 64), base64.StdEncoding.EncodeToString(append(key(), 1))} {
		_, err := secret.LoadKey(bad, t.TempDir(), true)
		require.ErrorContains(t, err, "CALLSTREAM_ENCRYPTION_KEY")
		require.NotContains(t, err.Error(), bad)
	}
	_, err := secret.LoadKey("", t.TempDir(), false)
	require.ErrorIs(t, err, secret.ErrNoKey)
}

func TestTheGeneratedKeyIsMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	keys := make(chan []byte, 8)
	errs := make(chan error, 8)
	for range cap(keys) {
		go func() {
			k, err := secret.LoadKey("", dir, true)
			keys <- k
			errs <- err
		}()
	}
	var first []byte
	for range cap(keys) {
		require.NoError(t, <-errs)
		k := <-keys
		if first == nil {
			first = k
		}
		require.Equal(t, first, k)
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing temporary is left")
	info, err := entries[0].Info()
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())
	again, err := secret.LoadKey("", dir, false)
	require.NoError(t, err)
	require.Equal(t, first, again)

	require.NoError(t, os.WriteFile(filepath.Join(dir, secret.KeyFile), []byte("damaged"), 0o600))
	_, err = secret.LoadKey("", dir, true)
	require.Error(t, err, "a damaged key is not replaced: what it sealed would be lost")
}
