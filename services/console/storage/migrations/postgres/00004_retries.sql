-- +goose Up
-- Which records were put back by hand of late, by their places, until the history knows of it.
CREATE TABLE retries (
    record   TEXT COLLATE "C" PRIMARY KEY,
    id       TEXT NOT NULL,
    asked_at BIGINT NOT NULL
);
