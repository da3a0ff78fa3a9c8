package callstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/services/console/history"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/payload"
)

// checkSubscriptions reads every subscription as the services do: one that can't be read is sent nothing.
func (d *doctor) checkSubscriptions(ctx context.Context, db *database) {
	const check = "subscriptions"
	box, err := secret.LoadBox(d.cfg.EncryptionKey, d.cfg.DataDir, false)
	if err != nil {
		box = nil // that is a finding of its own; the rest can be looked at
	}
	rows, err := db.QueryContext(ctx, `SELECT id, tenant, spec, secrets FROM subscriptions WHERE deleted_at = 0 ORDER BY id`)
	if err != nil {
		d.add(check, statusWarn, "they can't be read: "+d.withoutPassword(err), "")
		return
	}
	defer rows.Close()
	read, sealed := 0, 0
	var broken []string
	for rows.Next() {
		var id, tenant, spec, secrets string
		if err := rows.Scan(&id, &tenant, &spec, &secrets); err != nil {
			broken = append(broken, err.Error())
			break
		}
		read++
		err := d.readable(box, id, tenant, spec, secrets)
		switch {
		case errors.Is(err, secret.ErrSealed):
			sealed++
		case err != nil:
			broken = append(broken, id+": "+err.Error())
		}
	}
	if err := rows.Err(); err != nil {
		d.add(check, statusWarn, fmt.Sprintf("%s looked at, then: %s", count(read, "subscription"), d.withoutPassword(err)), "give it longer with --timeout")
	}
	if sealed > 0 {
		d.add(check, statusFail, fmt.Sprintf("the secrets of %s were sealed with another key, so nothing can be sent to them", count(sealed, "subscription")),
			"set CALLSTREAM_ENCRYPTION_KEY to the key they were sealed with, or send their secrets again")
	}
	if len(broken) > 0 {
		d.add(check, statusFail, few("can't be read: ", broken), "change what is said there; the log of a service that is newer or older may say more")
	}
	if sealed == 0 && len(broken) == 0 && rows.Err() == nil {
		d.add(check, statusOK, count(read, "subscription")+", and each can be read", "")
	}
}

// readable says why a subscription as it is stored could not be acted on.
func (d *doctor) readable(box *secret.Box, id, tenant, spec, secrets string) error {
	s := &subscription.Subscription{}
	if err := errors.Join(json.Unmarshal([]byte(spec), s), json.Unmarshal([]byte(secrets), &s.Sealed)); err != nil {
		return err
	}
	s.ID, s.Tenant = id, tenant
	if s.Filter != "" {
		if _, err := subscription.CompileFilter(s.Filter); err != nil {
			return fmt.Errorf("filter: %w", err)
		}
	}
	if _, err := payload.Compile(s.Payload, s.Request.Method); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	if box == nil {
		return nil
	}
	_, err := s.Open(box, d.now())
	return err
}

// historyBehind is how many records the history may be behind before it is worth a word: some always are on the way.
const historyBehind = 100_000

// checkHistory compares how far the history is with the ends of the topics that it is made of.
func (d *doctor) checkHistory(ctx context.Context, adm *kadm.Client) {
	const check, mend = "history", "start a console, or `callstream up`: it catches up by itself"
	db, err := d.openDatabase(history.File)
	if err != nil {
		// A database that is away is a finding already.
		d.add(check, statusWarn, err.Error(), mend)
		return
	}
	defer db.Close() //nolint:errcheck // only read from
	next := map[string]map[int32]int64{}
	rows, err := db.QueryContext(ctx, `SELECT topic, number, next_offset FROM history_progress`)
	if err != nil {
		d.add(check, statusWarn, "it holds nothing yet", mend)
		return
	}
	defer rows.Close()
	for rows.Next() {
		var topic string
		var partition int32
		var offset int64
		if err := rows.Scan(&topic, &partition, &offset); err != nil {
			d.add(check, statusWarn, "its progress can't be read: "+d.withoutPassword(err), "")
			return
		}
		if next[topic] == nil {
			next[topic] = map[int32]int64{}
		}
		next[topic][partition] = offset
	}
	if err := rows.Err(); err != nil {
		d.add(check, statusWarn, "its progress can't be read: "+d.withoutPassword(err), "")
		return
	}
	topics := slices.Sorted(maps.Keys(next))
	if len(topics) == 0 {
		d.add(check, statusOK, "it has not begun: there is nothing in the topics yet, or no console has run since it was rebuilt", "")
		return
	}
	starts, err := adm.ListStartOffsets(ctx, topics...)
	ends, endErr := adm.ListCommittedOffsets(ctx, topics...)
	if err = errors.Join(err, endErr); err != nil {
		d.add(check, statusWarn, "the topics' ends can't be told: "+cause(err), "")
		return
	}
	behind, lost := int64(0), int64(0)
	ends.Each(func(end kadm.ListedOffset) {
		at := next[end.Topic][end.Partition]
		if start, ok := starts.Lookup(end.Topic, end.Partition); ok && at > 0 && start.Offset > at {
			lost += start.Offset - at
			at = start.Offset
		}
		behind += max(0, end.Offset-at)
	})
	detail := thousands(behind) + " records behind"
	switch {
	case lost > 0:
		d.add(check, statusWarn, fmt.Sprintf("%s, and retention has taken %s records that it had not read", detail, thousands(lost)), mend+"; what is gone stays out of it")
	case behind > historyBehind:
		d.add(check, statusWarn, detail, mend)
	default:
		d.add(check, statusOK, detail, "")
	}
}
