-- The data tables, each made from its dataset's contract when it is first needed, and what was not loaded into them.

CREATE SCHEMA IF NOT EXISTS data;

-- What COPY fills the lineage columns from. They are labelled IMMUTABLE though they read settings of the
-- transaction, so that COPY, which plans column defaults anew for each statement, works them out once and not once
-- a row. Nothing else may call them: see docs/decisions/0003-lineage-by-column-defaults.md.
CREATE SCHEMA IF NOT EXISTS lineage;

CREATE OR REPLACE FUNCTION lineage.job() RETURNS bigint LANGUAGE sql IMMUTABLE AS
    $$ SELECT current_setting('ledger.job')::bigint $$;

CREATE OR REPLACE FUNCTION lineage.received() RETURNS date LANGUAGE sql IMMUTABLE AS
    $$ SELECT current_setting('ledger.received')::date $$;

CREATE OR REPLACE FUNCTION lineage.record_sequence() RETURNS regclass LANGUAGE sql IMMUTABLE AS
    $$ SELECT current_setting('ledger.record_sequence')::oid::regclass $$;

-- The records that their contract refused, each with what was sent: see projections/rejects.py.
CREATE SCHEMA IF NOT EXISTS rejects;

CREATE TABLE IF NOT EXISTS rejects.records (
    job_id uuid NOT NULL,
    record bigint NOT NULL,
    chunk integer NOT NULL,
    line bigint,
    byte_offset bigint NOT NULL,
    byte_length bigint NOT NULL,
    raw bytea NOT NULL,
    column_name text,
    code text NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (job_id, record)
);

-- The audit trail: one entry for each event, in as many generations as are being built or kept (see
-- projections/trail/store.py). Topics are compared byte by byte, so that those below a name are a range.
CREATE SCHEMA IF NOT EXISTS trail;

CREATE TABLE IF NOT EXISTS trail.entries (
    generation   integer          NOT NULL,
    position     bigint           NOT NULL,
    at           timestamptz      NOT NULL,
    actor        text             NOT NULL,
    topic        text COLLATE "C" NOT NULL,
    stream       uuid             NOT NULL,
    version      bigint           NOT NULL,
    job          uuid,
    related_job  uuid,
    dataset      text,
    fiscal_years text[]           NOT NULL,
    sha256       text,
    filename     text,
    correlation  text             NOT NULL,
    traceparent  text,
    text         text             NOT NULL,
    PRIMARY KEY (generation, position)
);
CREATE UNIQUE INDEX IF NOT EXISTS entries_stream ON trail.entries (generation, stream, version);
CREATE INDEX IF NOT EXISTS entries_at ON trail.entries (generation, at);
CREATE INDEX IF NOT EXISTS entries_actor ON trail.entries (generation, actor, position);
CREATE INDEX IF NOT EXISTS entries_topic ON trail.entries (generation, topic, position);
CREATE INDEX IF NOT EXISTS entries_job ON trail.entries (generation, job, position) WHERE job IS NOT NULL;
CREATE INDEX IF NOT EXISTS entries_related_job ON trail.entries (generation, related_job, position)
    WHERE related_job IS NOT NULL;
CREATE INDEX IF NOT EXISTS entries_dataset ON trail.entries (generation, dataset, position) WHERE dataset IS NOT NULL;
CREATE INDEX IF NOT EXISTS entries_sha256 ON trail.entries (generation, sha256, position) WHERE sha256 IS NOT NULL;
CREATE INDEX IF NOT EXISTS entries_filename ON trail.entries (generation, filename, position)
    WHERE filename IS NOT NULL;
CREATE INDEX IF NOT EXISTS entries_fiscal_years ON trail.entries USING gin (fiscal_years) WHERE fiscal_years <> '{}';

-- Which generation readers see, which was before it, and who switched: one row, so that a switch is one write.
CREATE TABLE IF NOT EXISTS trail.live (
    only_one    boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    generation  integer NOT NULL,
    previous    integer NOT NULL DEFAULT 0,
    switched_by text
);
INSERT INTO trail.live (generation) VALUES (1) ON CONFLICT DO NOTHING;

-- Words are found anywhere in a text by its trigrams where PostgreSQL has them, else by reading every text.
DO $$ DECLARE place text; BEGIN
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm') THEN
        CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public;
        SELECT quote_ident(nspname) INTO place
            FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'pg_trgm';
        EXECUTE 'CREATE INDEX IF NOT EXISTS entries_words ON trail.entries USING gin (text ' || place
            || '.gin_trgm_ops, filename ' || place || '.gin_trgm_ops)';
    END IF;
END $$;
-- Data tables that are being built anew, the partitions that were replaced last, and those that nobody wants any more:
-- see projections/data_view.py.
CREATE SCHEMA IF NOT EXISTS rebuilding;
CREATE SCHEMA IF NOT EXISTS superseded;
CREATE SCHEMA IF NOT EXISTS discarded;

CREATE SCHEMA IF NOT EXISTS views;

-- How far each data table is that is being built anew, for which operation. Written with each chunk.
CREATE TABLE IF NOT EXISTS views.builds (
    dataset      text   PRIMARY KEY,
    operation_id uuid   NOT NULL,
    position     bigint NOT NULL,
    events       bigint NOT NULL,
    chunks       bigint NOT NULL
);

-- Which generation of a data table is live, since which position of the log, and what is kept of the one before: the
-- name, the bounds and the constraint of each of its partitions. A table that was never switched has no row.
CREATE TABLE IF NOT EXISTS views.data_tables (
    dataset               text   PRIMARY KEY,
    generation            bigint NOT NULL,
    switched_at_position  bigint NOT NULL,
    superseded_generation bigint,
    superseded            jsonb
);
