-- The record: the log of events, and the index of what has arrived. Applied by `ledger.database.prepare`, any
-- number of times, under a lock.

CREATE SCHEMA IF NOT EXISTS ledger;

-- The log. `id` is an event's position; the columns are those of the eventsourcing library.
CREATE TABLE IF NOT EXISTS ledger.stored_events (
    id                 bigserial PRIMARY KEY,
    originator_id      uuid   NOT NULL,
    originator_version bigint NOT NULL,
    topic              text   NOT NULL,
    state              bytea  NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS stored_events_originator
    ON ledger.stored_events (originator_id, originator_version);

-- Which job answers for which bytes in which dataset, and the short name that each row of the job carries:
-- the position of its Received event. `part` says which part of the bytes it is about, if not all of them: a file of an
-- archive, a sheet. Written in the transaction of that event.
CREATE TABLE IF NOT EXISTS ledger.arrivals (
    job_id   uuid   PRIMARY KEY,
    position bigint NOT NULL UNIQUE,
    dataset  text   NOT NULL,
    sha256   text   NOT NULL,
    part     text
);
CREATE INDEX IF NOT EXISTS arrivals_content ON ledger.arrivals (dataset, sha256, position);

-- A database of before an archive could be several jobs.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'ledger.arrivals'::regclass AND attname = 'part') THEN
        ALTER TABLE ledger.arrivals ADD COLUMN part text;
    END IF;
END $$;

-- The sealed log: a hash for each event in the order of the log, without gaps; the hashes of complete subtrees of 256
-- leaves, of 256 of those, and so on; and the signed root of every time that somebody sealed. See `ledger.seal`.
CREATE TABLE IF NOT EXISTS ledger.leaves (
    index    bigint PRIMARY KEY,
    position bigint NOT NULL UNIQUE,
    hash     bytea  NOT NULL CHECK (length(hash) = 32),
    fields   bytea  NOT NULL  -- so that a changed event can be told by the field that was changed
);
CREATE TABLE IF NOT EXISTS ledger.nodes (
    level smallint NOT NULL,
    index bigint   NOT NULL,
    hash  bytea    NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, index)
);
CREATE TABLE IF NOT EXISTS ledger.checkpoints (
    size      bigint      PRIMARY KEY,
    note      bytea       NOT NULL,
    sealed_at timestamptz NOT NULL
);

-- What a request is let in by: written in the transaction of key.created and of key.revoked, and again from the log
-- whenever an API starts (`ledger.keys`). Whose a key is stands in the log alone. Only the last use is nowhere else.
CREATE TABLE IF NOT EXISTS ledger.api_keys (
    key_id        text        PRIMARY KEY,
    role          text        NOT NULL,
    datasets      text[],     -- null: all of them
    expires_at    timestamptz,
    secret_sha256 bytea       NOT NULL CHECK (length(secret_sha256) = 32),
    revoked_at    timestamptz,
    last_used_at  timestamptz
);
CREATE INDEX IF NOT EXISTS stored_events_keys ON ledger.stored_events (id) WHERE topic = 'key.created';
