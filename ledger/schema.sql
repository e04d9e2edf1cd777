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
-- For `ledger.erasures.last_name_erased`, which every follower asks again and again, and for `ledger.keys`.
CREATE INDEX IF NOT EXISTS stored_events_name_erased ON ledger.stored_events (id) WHERE topic = 'filejob.name_erased';
CREATE INDEX IF NOT EXISTS stored_events_key_created ON ledger.stored_events (id) WHERE topic = 'key.created';

-- Which job answers for which bytes in which dataset, and the short name that each row of the job carries:
-- the position of its Received event. `part` tells which part of the bytes it is about, if not all of them, such as a
-- file of an archive: a digest under the ledger's own key, for it names that. Written in the transaction of that event.
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
    size bigint PRIMARY KEY,
    note bytea  NOT NULL  -- a signed note, which also says when it was signed
);

-- What is only added to. The triggers stop accidents, be it those of whoever owns the database, and in a session that
-- takes itself for a replica; who takes them away and changes something is found out by the seal.
CREATE OR REPLACE FUNCTION ledger.guarded_tables() RETURNS text[] LANGUAGE sql IMMUTABLE AS
    $$ SELECT ARRAY['stored_events', 'leaves', 'nodes', 'checkpoints'] $$;
CREATE OR REPLACE FUNCTION ledger.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION '%.% is only added to: % is refused', TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege';
END $$;
DO $$ DECLARE guarded text; enabled text; BEGIN
    FOREACH guarded IN ARRAY ledger.guarded_tables() LOOP
        SELECT tgenabled INTO enabled
            FROM pg_trigger WHERE tgrelid = ('ledger.' || guarded)::regclass AND tgname = 'only_added_to';
        IF enabled IS NULL THEN
            EXECUTE format(
                'CREATE TRIGGER only_added_to BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.%I '
                'FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()', guarded
            );
        END IF;
        IF enabled IS DISTINCT FROM 'A' THEN
            EXECUTE format('ALTER TABLE ledger.%I ENABLE ALWAYS TRIGGER only_added_to', guarded);
        END IF;
    END LOOP;
END $$;
-- Refuses every change of the table that it is a trigger of, which holds rows of a fiscal year that is closed. Its
-- arguments are the label of the year and what has become of it. The detail is the label alone: whoever loads rows knows
-- by it and by the code which year would not take them (`ledger.year_fence`). Class LG is the ledger's own: classes from
-- I to Z are free for that.
CREATE OR REPLACE FUNCTION ledger.refuse_change_of_year() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'fiscal year % %: % of %.% is refused', TG_ARGV[0], TG_ARGV[1], TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'LG001', DETAIL = TG_ARGV[0], SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
END $$;
-- Reads of the audit trail that are counted and not yet an event (see `ledger.audit_reads`), and the manifests of exports,
-- whose digests are in events (see `ledger.manifests`): they say what must not be in the log for ever.
CREATE SCHEMA IF NOT EXISTS audit;
CREATE TABLE IF NOT EXISTS audit.reads (
    key            text        PRIMARY KEY,
    actor          text        NOT NULL,
    kind           text        NOT NULL,
    asked          jsonb       NOT NULL,
    correlation    text        NOT NULL,
    traceparent    text,
    opened_at      timestamptz NOT NULL,
    reads          bigint      NOT NULL DEFAULT 0,
    entries        bigint      NOT NULL DEFAULT 0,
    first_position bigint,
    last_position  bigint,
    first_read_at  timestamptz
);
CREATE INDEX IF NOT EXISTS reads_opened ON audit.reads (opened_at);
CREATE TABLE IF NOT EXISTS audit.manifests (
    export_id uuid  PRIMARY KEY,
    text      text  NOT NULL,
    note      bytea           -- the text, signed
);
CREATE INDEX IF NOT EXISTS manifests_unsigned ON audit.manifests (export_id) WHERE note IS NULL;
-- The keys under which names are sealed, one for each subject, wrapped by the master key `master`; without its key a
-- subject is erased. A schema of its own, so that its backups can be kept for a shorter time than the record's.
CREATE SCHEMA IF NOT EXISTS subjects;
CREATE TABLE IF NOT EXISTS subjects.keys (
    subject text  PRIMARY KEY,
    wrapped bytea,
    master  text  NOT NULL
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
-- Where each fiscal year stands that has events: written in their transactions, and asked by whoever adds rows
-- (`ledger.fiscal_years`).
CREATE TABLE IF NOT EXISTS ledger.fiscal_years (
    label       text    PRIMARY KEY,
    starts_on   date    NOT NULL,
    ends_before date    NOT NULL,
    zone        text    NOT NULL,
    state       text    NOT NULL,
    generation  integer NOT NULL
);
