-- +goose Up
-- What endpoints answered, by call: where the record is that has the body, and what is known without it.
CREATE TABLE history_responses (
    record_partition BIGINT NOT NULL,
    record_offset    BIGINT NOT NULL,
    tenant           TEXT NOT NULL,
    call_id          TEXT NOT NULL,
    received_at      BIGINT NOT NULL,
    event_id         TEXT NOT NULL,
    type             TEXT NOT NULL,
    subscription_id  TEXT NOT NULL,
    delivery_id      TEXT NOT NULL,
    attempt          BIGINT NOT NULL,
    http_status      BIGINT NOT NULL,
    valid            BIGINT NOT NULL,
    problem          TEXT NOT NULL,
    PRIMARY KEY (record_partition, record_offset)
);
CREATE INDEX history_responses_by_call ON history_responses (tenant, call_id, record_partition, record_offset);
CREATE INDEX history_responses_by_age ON history_responses (received_at);
