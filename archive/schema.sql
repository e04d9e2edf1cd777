-- What guards the rows of fiscal years that are closed, of those that were archived, and restored copies of them.

CREATE SCHEMA IF NOT EXISTS archive;

-- Refuses every change of the table that it is a trigger of. Its arguments are the label of the fiscal year and what has
-- become of it. The detail is the label alone: whoever loads rows knows by it and by the code which year would not take
-- them (see archive/fence.py). Class LG is the ledger's own: classes from I to Z are free for that.
CREATE OR REPLACE FUNCTION archive.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'fiscal year % %: % of %.% is refused', TG_ARGV[0], TG_ARGV[1], TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'LG001', DETAIL = TG_ARGV[0], SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
END $$;
