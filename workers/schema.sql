-- The work to be done. PostgreSQL is the queue: the broker only carries hints, so losing every message costs
-- time, never work.

CREATE SCHEMA IF NOT EXISTS work;

-- Claims are numbered over all work: a job that is retried may need the same pieces again, and a worker that holds
-- one from before must not find its number there.
CREATE SEQUENCE IF NOT EXISTS work.epochs;

-- One row per piece of work that the log asks for and that is not done, `job_id` being a job's id or an operation's.
-- `epoch` is the number of its last claim: whoever commits with an older one has lost its lease. `attempts` counts
-- before the work, so work that kills its worker is counted too. `queue` is where its messages go. All times are
-- PostgreSQL's.
CREATE TABLE IF NOT EXISTS work.items (
    job_id       uuid        NOT NULL,
    stage        text        NOT NULL,
    chunk        integer     NOT NULL,
    queue        text        NOT NULL DEFAULT 'ledger.small',
    traceparent  text,
    epoch        bigint      NOT NULL DEFAULT 0,
    attempts     integer     NOT NULL DEFAULT 0,
    due_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    published_at timestamptz,
    leased_until timestamptz,
    worker       text,
    last_error   text,
    PRIMARY KEY (job_id, stage, chunk)
);
CREATE INDEX IF NOT EXISTS items_due ON work.items (due_at);

-- A database of before there were two queues.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'work.items'::regclass AND attname = 'queue') THEN
        ALTER TABLE work.items ADD COLUMN queue text NOT NULL DEFAULT 'ledger.small';
    END IF;
END $$;

-- A database of before the claims were numbered over all work.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'work.items'::regclass AND attname = 'epoch'
               AND atttypid = 'integer'::regtype) THEN
        ALTER TABLE work.items ALTER COLUMN epoch TYPE bigint;
        PERFORM setval('work.epochs', (SELECT coalesce(max(epoch), 0) + 1 FROM work.items));
    END IF;
END $$;

-- How far each one that follows the log has come: the dispatcher, and the mailer as 'mail'.
CREATE TABLE IF NOT EXISTS work.positions (
    name     text   PRIMARY KEY,
    position bigint NOT NULL
);

-- When what is done by itself every so often was last asked for.
CREATE TABLE IF NOT EXISTS work.schedule (
    name     text        PRIMARY KEY,
    asked_at timestamptz NOT NULL
);
