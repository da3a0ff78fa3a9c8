-- +goose Up
-- What lists sort and choose by, and what housekeeping looks for; all of it stands in spec as well.
ALTER TABLE subscriptions ADD COLUMN state TEXT NOT NULL DEFAULT '';
ALTER TABLE subscriptions ADD COLUMN position BIGINT NOT NULL DEFAULT 0;
-- When the signing key before the present one ends; 0 where there is none.
ALTER TABLE subscriptions ADD COLUMN previous_until BIGINT NOT NULL DEFAULT 0;
UPDATE subscriptions SET state = COALESCE(spec::json->>'state', ''), position = COALESCE((spec::json->>'position')::bigint, 0);
CREATE INDEX subscriptions_by_position ON subscriptions (tenant, position, id DESC) WHERE deleted_at = 0;
CREATE INDEX subscriptions_previous ON subscriptions (previous_until) WHERE previous_until > 0;

CREATE INDEX audit_by_tenant ON audit (tenant, seq);

-- The per-agent shorthand: which subscription stands for an agent's post-call webhook; empty once it was removed.
CREATE TABLE agent_settings (
    tenant       TEXT NOT NULL,
    agent_id     TEXT COLLATE "C" NOT NULL,
    subscription TEXT COLLATE "C" NOT NULL,
    updated_at   BIGINT NOT NULL,
    PRIMARY KEY (tenant, agent_id)
);

-- What was skipped and has been asked to be sent again, so that it is asked once. after_replay is the replay that had skipped it
-- again before; empty for the first.
CREATE TABLE replayed (
    delivery     TEXT COLLATE "C" NOT NULL,
    after_replay TEXT COLLATE "C" NOT NULL,
    at           BIGINT NOT NULL,
    PRIMARY KEY (delivery, after_replay)
);
CREATE INDEX replayed_by_age ON replayed (at);
