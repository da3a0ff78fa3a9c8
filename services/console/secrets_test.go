package console

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/webhook"
	"github.com/stretchr/testify/require"
)

// No secret, whichever way it came or was made, is found in an answer but the one that shows it, in the log,
// on the feeds or in the files of the database, not even in what SQLite left behind.
func TestSecretsAreNowhere(t *testing.T) {
	h := start(t, func(c *Config, _ *Deps) { c.DatabaseURL = "" })
	receiver := hooktest.Start(t, hooktest.Options{Answer: func(r *hooktest.Request) hooktest.Answer {
		// An endpoint that tells what it was sent.
		return hooktest.Answer{Status: 200, Header: map[string]string{"X-Echo": r.Header.Get("Authorization") + r.Header.Get("X-Key")}, Body: r.Header.Get("Authorization") + r.Header.Get("X-Key")}
	}})
	authority := hooktest.NewAuthority(t)
	certificate, private := authority.Client("callstream")
	own := make([]byte, 32)
	copy(own, "planted-signing-secret-of-theirs")
	_, key25519, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	planted := map[string]string{
		"basic header": base64.StdEncoding.EncodeToString([]byte("u:planted-password")), "given private key": base64.StdEncoding.EncodeToString(key25519),
		"bearer": "planted-bearer", "basic": "planted-password", "api_key": "planted-api-key", "oauth2": "planted-client-secret",
		"private key": strings.Split(private, "\n")[2], "given signing secret": base64.StdEncoding.EncodeToString(own), "patched": "planted-patched",
	}
	auths := []string{
		`{"type":"bearer","token":"planted-bearer"}`, `{"type":"basic","username":"u","password":"planted-password"}`, `{"type":"api_key","header":"X-Key","value":"planted-api-key"}`,
		`{"type":"oauth2","token_url":"` + receiver.URL() + `/token","client_id":"id","client_secret":"planted-client-secret"}`,
		toJSON(t, map[string]string{"type": "mtls", "certificate": certificate, "private_key": private}),
	}
	var shown strings.Builder
	note := func(a answer) { fmt.Fprintln(&shown, string(a.body), a.header) }
	remember := func(what, secret string) { planted[what] = strings.TrimPrefix(secret, webhook.PrefixSecret) }
	for i, auth := range auths {
		endpoint := receiver.URL()
		if strings.Contains(auth, `"mtls"`) {
			endpoint = "https" + strings.TrimPrefix(endpoint, "http") // certificates are shown there alone
		}
		made := h.create(`{"url":"` + endpoint + `","events":["call.*"],"auth":` + auth + `}`)
		path := "/v1/subscriptions/" + made.str("id")
		remember(fmt.Sprint("made ", i), made.str("secret"))
		note(h.do("GET", path, ""))
		note(h.do("POST", path+"/verify", ""))
		rotated := h.do("POST", path+"/rotate-secret", "").is(200)
		remember(fmt.Sprint("rotated ", i), rotated.str("secret"))
		note(h.do("POST", path+"/test", ""))
		note(h.do("POST", "/v1/subscriptions:preview", `{"subscription_id":"`+made.str("id")+`"}`))
		note(h.do("POST", "/v1/subscriptions:preview", `{"subscription":{"url":"https://x.example","events":["*"],"auth":`+auth+`}}`))
		note(h.do("PATCH", path, `{"auth":{"type":"bearer","token":"planted-patched"}}`).is(200))
		note(h.do("PATCH", path, `{"auth":{"token":"planted-patched\n"}}`))
	}
	given := h.create(`{"url":"` + receiver.URL() + `","events":["*"],"signing":{"secret":"` + webhook.PrefixSecret + planted["given signing secret"] + `"}}`)
	note(given)
	asymmetric := h.create(`{"url":"` + receiver.URL() + `","events":["*"],"signing":{"scheme":"ed25519","secret":"` + webhook.PrefixPrivate + planted["given private key"] + `"}}`)
	note(asymmetric)
	agent := h.do("PUT", agentPath, `{"webhooks":{"postCall":"`+receiver.URL()+`"}}`).is(200)
	remember("agent", agent.str("secret"))
	key := h.do("POST", "/v1/keys", `{"name":"k","scopes":["admin"]}`).is(http.StatusCreated)
	planted["API key"] = key.str("key")
	note(h.do("GET", "/v1/subscriptions", ""))
	note(h.do("GET", "/v1/audit?limit=500", ""))
	note(h.do("GET", agentPath, ""))
	h.do("DELETE", "/v1/subscriptions/"+given.str("id"), "").is(204)

	places := map[string]string{"answers": shown.String(), "log": h.logs.String()}
	for _, name := range []string{feedTopic("subscription"), feedTopic("key"), feedTopic("replay")} {
		for _, r := range h.feeds.records(name) {
			places["feed "+name] += string(r.value)
		}
	}
	read := func() {
		require.NoError(t, filepath.WalkDir(h.cfg.DataDir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			raw, err := os.ReadFile(path)
			places[filepath.Base(path)] += string(raw)
			return err
		}))
	}
	read() // with the write-ahead log
	h.stop()
	read()
	require.Contains(t, places["callstream.db"], given.str("id"), "the database is where it was looked for")
	require.NotEmpty(t, places["answers"])
	for what, secret := range planted {
		require.NotEmpty(t, secret, what)
		for place, text := range places {
			require.NotContains(t, text, secret, "%s in %s", what, place)
		}
	}
}
