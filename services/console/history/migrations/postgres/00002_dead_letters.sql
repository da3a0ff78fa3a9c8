-- +goose Up
-- One row for each dead letter, and what is known of its redrive. A row without a reason knows of the redrive alone: the
-- letter is not read yet.
CREATE TABLE history_dead_letters (
    id               TEXT COLLATE "C" NOT NULL,
    tenant           TEXT NOT NULL,
    reason           TEXT NOT NULL,
    detail           TEXT NOT NULL,
    subscription_id  TEXT NOT NULL,
    delivery_id      TEXT NOT NULL,
    event_id         TEXT NOT NULL,
    source           TEXT NOT NULL,
    type             TEXT NOT NULL,
    call_id          TEXT NOT NULL,
    attempts         BIGINT NOT NULL,
    first_failed_at  BIGINT NOT NULL,
    last_failed_at   BIGINT NOT NULL,
    dead_at          BIGINT NOT NULL,
    error_class      TEXT NOT NULL,
    http_status      BIGINT NOT NULL,
    service          TEXT NOT NULL,
    number           BIGINT NOT NULL,
    record_offset    BIGINT NOT NULL,
    source_topic     TEXT NOT NULL,
    source_partition BIGINT NOT NULL,
    source_offset    BIGINT NOT NULL,
    redriven_at      BIGINT NOT NULL,
    redriven_by      TEXT NOT NULL
);
CREATE UNIQUE INDEX history_dead_letters_key ON history_dead_letters (id);
CREATE INDEX history_dead_letters_by_tenant ON history_dead_letters (tenant, dead_at, id);
CREATE INDEX history_dead_letters_by_subscription ON history_dead_letters (tenant, subscription_id, dead_at, id);
CREATE INDEX history_dead_letters_by_delivery ON history_dead_letters (delivery_id) WHERE delivery_id <> '';
CREATE INDEX history_dead_letters_by_event ON history_dead_letters (event_id) WHERE event_id <> '';
CREATE INDEX history_dead_letters_by_age ON history_dead_letters (dead_at);

-- The redrive that led to a delivery's state.
ALTER TABLE history_deliveries ADD COLUMN redrive TEXT NOT NULL DEFAULT '';

-- The dead letters are read again from their start, into the new table; what they said before stays as it is.
DELETE FROM history_progress WHERE topic = 'deliveries.dlq';
