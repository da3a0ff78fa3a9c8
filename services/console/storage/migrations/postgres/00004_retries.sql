-- +goose Up
-- Which schedules of attempts a retry by hand took over from of late, until the history knows of it.
CREATE TABLE retries (
    schedule TEXT COLLATE "C" PRIMARY KEY,
    id       TEXT NOT NULL,
    asked_at BIGINT NOT NULL
);
