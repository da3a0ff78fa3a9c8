-- +goose Up
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE subscriptions (
    id         TEXT COLLATE "C" PRIMARY KEY,
    tenant     TEXT NOT NULL,
    version    BIGINT NOT NULL,
    spec       TEXT NOT NULL,
    secrets    TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX subscriptions_by_tenant ON subscriptions (tenant, id) WHERE deleted_at = 0;
CREATE INDEX subscriptions_deleted ON subscriptions (deleted_at) WHERE deleted_at > 0;

CREATE TABLE api_keys (
    id         TEXT COLLATE "C" PRIMARY KEY,
    tenant     TEXT NOT NULL,
    version    BIGINT NOT NULL,
    name       TEXT NOT NULL,
    hash       TEXT NOT NULL UNIQUE,
    scopes     TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL DEFAULT 0,
    deleted_at BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant, id) WHERE deleted_at = 0;
CREATE INDEX api_keys_deleted ON api_keys (deleted_at) WHERE deleted_at > 0;

-- What still has to go to the feeds, and for a while what went.
CREATE TABLE outbox (
    seq          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         TEXT NOT NULL,
    id           TEXT COLLATE "C" NOT NULL,
    tenant       TEXT NOT NULL,
    version      BIGINT NOT NULL,
    deleted      BIGINT NOT NULL,
    body         TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    published_at BIGINT NOT NULL DEFAULT 0,
    feed_offset  BIGINT NOT NULL DEFAULT -1
);
CREATE INDEX outbox_pending ON outbox (seq) WHERE published_at = 0;
CREATE INDEX outbox_published ON outbox (published_at) WHERE published_at > 0;

CREATE TABLE audit (
    seq     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      BIGINT NOT NULL,
    tenant  TEXT NOT NULL,
    actor   TEXT NOT NULL,
    action  TEXT NOT NULL,
    kind    TEXT NOT NULL,
    id      TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    detail  TEXT NOT NULL
);
CREATE INDEX audit_by_object ON audit (tenant, id, seq);
