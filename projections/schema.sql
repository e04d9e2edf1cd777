-- The data tables' schema; each table is made from its dataset's contract when it is first needed.

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
