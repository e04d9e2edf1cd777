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
