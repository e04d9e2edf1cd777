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
