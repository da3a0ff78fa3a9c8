-- +goose Up
-- One row: which making of the projection this is, and who writes it.
CREATE TABLE history_state (
    id         BIGINT PRIMARY KEY CHECK (id = 1),
    generation BIGINT NOT NULL,
    writer     TEXT NOT NULL
);
INSERT INTO history_state (id, generation, writer) VALUES (1, 1, '');

-- The next offset to read of each partition: everything below it is in the rows.
CREATE TABLE history_progress (
    topic       TEXT NOT NULL,
    number      BIGINT NOT NULL,
    next_offset BIGINT NOT NULL,
    PRIMARY KEY (topic, number)
);

CREATE TABLE history_events (
    id               TEXT COLLATE "C" NOT NULL,
    tenant           TEXT NOT NULL,
    source           TEXT NOT NULL,
    type             TEXT NOT NULL,
    call_id          TEXT NOT NULL,
    occurred_at      BIGINT NOT NULL,
    accepted_at      BIGINT NOT NULL,
    grade            BIGINT NOT NULL,
    record_topic     TEXT NOT NULL,
    record_partition BIGINT NOT NULL,
    record_offset    BIGINT NOT NULL,
    dead_at          BIGINT NOT NULL,
    dead_reason      TEXT NOT NULL,
    dead_detail      TEXT NOT NULL
);
CREATE UNIQUE INDEX history_events_key ON history_events (id, tenant, source);
CREATE INDEX history_events_by_call ON history_events (tenant, call_id, occurred_at) WHERE call_id <> '';
CREATE INDEX history_events_by_age ON history_events (accepted_at);

CREATE TABLE history_deliveries (
    id                   TEXT COLLATE "C" NOT NULL,
    occurrence           TEXT COLLATE "C" NOT NULL,
    tenant               TEXT NOT NULL,
    subscription_id      TEXT NOT NULL,
    subscription_version BIGINT NOT NULL,
    event_id             TEXT NOT NULL,
    source               TEXT NOT NULL,
    type                 TEXT NOT NULL,
    call_id              TEXT NOT NULL,
    state                TEXT NOT NULL,
    reason               TEXT NOT NULL,
    detail               TEXT NOT NULL,
    replay_id            TEXT NOT NULL,
    state_kind           BIGINT NOT NULL,
    state_attempt        BIGINT NOT NULL,
    state_at             BIGINT NOT NULL,
    next_attempt_at      BIGINT NOT NULL,
    record_topic         TEXT NOT NULL,
    record_partition     BIGINT NOT NULL,
    record_offset        BIGINT NOT NULL,
    attempts             BYTEA NOT NULL,
    via                  TEXT NOT NULL,
    http_status          BIGINT NOT NULL,
    error_class          TEXT NOT NULL,
    duration_us          BIGINT NOT NULL,
    delivered_at         BIGINT NOT NULL,
    created_at           BIGINT NOT NULL,
    updated_at           BIGINT NOT NULL
);
CREATE UNIQUE INDEX history_deliveries_key ON history_deliveries (id, occurrence);
CREATE INDEX history_deliveries_by_tenant ON history_deliveries (tenant, created_at, id);
CREATE INDEX history_deliveries_by_subscription ON history_deliveries (tenant, subscription_id, created_at, id);
CREATE INDEX history_deliveries_by_event ON history_deliveries (event_id);
CREATE INDEX history_deliveries_by_age ON history_deliveries (created_at);
CREATE INDEX history_deliveries_open ON history_deliveries (tenant, subscription_id) WHERE state IN ('queued', 'retrying');
CREATE INDEX history_deliveries_missed ON history_deliveries (tenant, subscription_id, created_at, id) WHERE state = 'skipped' AND reason IN ('paused', 'disabled');

-- How many deliveries that a subscription missed were deleted for their age or their number, and when that was last.
CREATE TABLE history_forgotten (
    tenant          TEXT NOT NULL,
    subscription_id TEXT NOT NULL,
    missed          BIGINT NOT NULL,
    forgotten_at    BIGINT NOT NULL,
    PRIMARY KEY (tenant, subscription_id)
);
