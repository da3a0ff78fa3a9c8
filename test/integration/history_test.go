package integration

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/callstream/callstream/pkg/hooktest"
)

// TestConsoleAway stops the console while events flow. They are delivered all the same, and when it is back its history
// is complete, with nothing double. A rebuilt history says the same.
func TestConsoleAway(t *testing.T) {
	p := startPipeline(t, settings{shape: apart})
	tn := p.tenant("away")
	hook := hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}, "filter": "event.call_id != 'c-3'"})
	const before, during = 50, 500
	post := func(from, n int) {
		batch := make([]object, 0, n)
		for i := from; i < from+n; i++ {
			batch = append(batch, ended(fmt.Sprintf("c-%d", i%10), object{"id": fmt.Sprintf("away-%d", i)}))
		}
		tn.post(batch)
	}
	post(0, before)
	await(t, hook, before*9/10)
	p.process("console").Kill()
	post(before, during)
	await(t, hook, (before+during)*9/10)
	p.launch("console")
	p.awaitReady()
	tn = p.tenant("away")

	complete := func() {
		t.Helper()
		eventually(t, "the history is complete", func() error {
			states := map[string]int{}
			cursor := ""
			for {
				var list struct {
					Items []delivery `json:"items"`
					Next  string     `json:"next_cursor"`
				}
				query := url.Values{"subscription_id": {sub.ID}, "limit": {"200"}}
				if cursor != "" {
					query.Set("cursor", cursor)
				}
				list = decode[struct {
					Items []delivery `json:"items"`
					Next  string     `json:"next_cursor"`
				}](t, tn.must(200, http.MethodGet, "/v1/deliveries?"+query.Encode(), nil))
				for _, d := range list.Items {
					states[strings.TrimSpace(d.State+" "+d.Reason)]++
				}
				if cursor = list.Next; cursor == "" {
					break
				}
			}
			if states["delivered"] != (before+during)*9/10 || states["skipped filtered"] != (before+during)/10 || len(states) != 2 {
				return fmt.Errorf("%v", states)
			}
			return nil
		})
	}
	complete()
	p.callstream("history", "rebuild")
	complete()
}

// TestSecretsRestSealed plants secrets in every place that takes one, uses them, and looks for them wherever they could
// rest: topics, databases, logs, addresses.
func TestSecretsRestSealed(t *testing.T) {
	for _, s := range []shape{together, apart} {
		t.Run(string(s), func(t *testing.T) {
			p := startPipeline(t, settings{shape: s, env: map[string]string{"CALLSTREAM_LOG_LEVEL": "debug"}})
			tn := p.tenant("sealed")
			hook := hooktest.Start(t, hooktest.Options{})
			planted := map[string]object{
				"planted-token":    {"type": "bearer", "token": "planted-token"},
				"planted-password": {"type": "basic", "username": "crm", "password": "planted-password"},
				"planted-value":    {"type": "api_key", "header": "X-Api-Key", "value": "planted-value"},
				"planted-client":   {"type": "oauth2", "token_url": hook.URL() + "/token", "client_id": "crm", "client_secret": "planted-client"},
			}
			hook.SetAnswer(func(r *hooktest.Request) hooktest.Answer {
				if r.Path == "/token" {
					return hooktest.Answer{Status: 200, Body: `{"access_token":"planted-access","token_type":"bearer","expires_in":600}`, Header: map[string]string{"Content-Type": "application/json"}}
				}
				return hooktest.Answer{}
			})
			secrets := slices.Sorted(func(yield func(string) bool) {
				for name := range planted {
					if !yield(name) {
						return
					}
				}
			})
			secrets = append(secrets, "planted-access", "Y3JtOnBsYW50ZWQtcGFzc3dvcmQ" /* crm:planted-password as basic auth has it */, tn.key)
			for _, auth := range planted {
				sub := tn.subscribe(object{"url": hook.URL() + "/" + auth["type"].(string), "events": []string{"call.*"}, "auth": auth})
				rotated := decode[created](t, tn.must(200, http.MethodPost, "/v1/subscriptions/"+sub.ID+"/rotate-secret", nil)).Secret
				tn.must(200, http.MethodPost, "/v1/subscriptions/"+sub.ID+"/test", nil)
				secrets = append(secrets, strings.TrimPrefix(sub.Secret, "whsec_"), strings.TrimPrefix(rotated, "whsec_"))
			}
			tn.inForce()
			tn.post(ended("s", object{"id": "sealed-1"}))
			awaitAttempts(t, p, tn.name, len(planted))
			tn.post(ended("s", object{"id": "sealed-2"}))
			awaitAttempts(t, p, tn.name, 2*len(planted))

			cl, err := kgo.NewClient(kgo.SeedBrokers(p.brokers...))
			require.NoError(t, err)
			defer cl.Close()
			topics, err := kadm.NewClient(cl).ListTopics(t.Context())
			require.NoError(t, err)
			searched := 0
			for _, name := range topics.Names() {
				for _, r := range p.records(name) {
					all := string(r.Key) + "\x00" + string(r.Value)
					for _, h := range r.Headers {
						all += "\x00" + h.Key + "\x00" + string(h.Value)
					}
					for _, secret := range secrets {
						assert.NotContains(t, all, secret, "a record of %s", name)
					}
					searched++
				}
			}
			require.Greater(t, searched, 20)
			for _, name := range p.names() {
				require.NoError(t, p.terminate(name)) // so that everything is in the files
			}
			files := 0
			require.NoError(t, filepath.WalkDir(p.dir, func(path string, d os.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				raw, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				for _, secret := range secrets {
					assert.NotContains(t, string(raw), secret, path)
				}
				files++
				return nil
			}))
			require.Greater(t, files, 5)
		})
	}
}
