-- +goose Up
-- What somebody asked to be sent again from the dead letters, until it is old.
CREATE TABLE redrives (
    id           TEXT COLLATE "C" PRIMARY KEY,
    tenant       TEXT NOT NULL,
    state        TEXT NOT NULL,
    request      TEXT NOT NULL,
    rate         BIGINT NOT NULL,
    requested_by TEXT NOT NULL,
    requested_at BIGINT NOT NULL,
    finished_at  BIGINT NOT NULL DEFAULT 0,
    total        BIGINT NOT NULL,
    done         BIGINT NOT NULL,
    failed       BIGINT NOT NULL,
    skipped      BIGINT NOT NULL
);
CREATE INDEX redrives_by_tenant ON redrives (tenant, id);
CREATE INDEX redrives_running ON redrives (id) WHERE state = 'running';
CREATE INDEX redrives_by_age ON redrives (finished_at) WHERE finished_at > 0;

-- Its dead letters, by their places, and what became of each.
CREATE TABLE redrive_items (
    redrive       TEXT COLLATE "C" NOT NULL,
    number        BIGINT NOT NULL,
    record_offset BIGINT NOT NULL,
    dead_at       BIGINT NOT NULL,
    state         TEXT NOT NULL,
    reason        TEXT NOT NULL,
    detail        TEXT NOT NULL,
    PRIMARY KEY (redrive, number, record_offset)
);
CREATE INDEX redrive_items_by_letter ON redrive_items (number, record_offset);
CREATE INDEX redrive_items_waiting ON redrive_items (redrive, number, record_offset) WHERE state = 'waiting';
CREATE INDEX redrive_items_explained ON redrive_items (redrive, number, record_offset) WHERE state IN ('failed', 'skipped');
