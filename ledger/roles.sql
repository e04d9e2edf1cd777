-- The role that the ledger's processes work as, once their schemas are there (`ledger.event_store`). It may add to the
-- record and read it, and owns everything that can be built again from it. Applied after each schema, as the login role.
-- Before PostgreSQL 17 nobody may lock the log without the right to change it; then there is no such role.

DO $$
DECLARE
    found record;
    guarded CONSTANT text[] := ARRAY['stored_events', 'leaves', 'nodes', 'checkpoints'];
    derived CONSTANT text[] := ARRAY[
        'archive', 'audit', 'data', 'discarded', 'lineage', 'rebuilding', 'rejects', 'subjects', 'superseded', 'trail', 'views', 'work'
    ];
BEGIN
    IF current_setting('server_version_num')::int < 170000 THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ledger_app') THEN
        BEGIN
            CREATE ROLE ledger_app NOLOGIN;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;  -- another database of this server has just made it
            WHEN insufficient_privilege THEN RETURN;
        END;
    END IF;
    IF NOT pg_has_role(current_user, 'ledger_app', 'SET') THEN
        EXECUTE format('GRANT ledger_app TO %I', current_user);
    END IF;
    EXECUTE format('GRANT CREATE, TEMPORARY ON DATABASE %I TO ledger_app', current_database());

    GRANT USAGE ON SCHEMA ledger TO ledger_app;
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA ledger TO ledger_app;
    FOR found IN SELECT oid, relname FROM pg_class WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r' LOOP
        IF found.relname = ANY (guarded) THEN
            EXECUTE format('GRANT SELECT, INSERT, MAINTAIN ON ledger.%I TO ledger_app', found.relname);
        ELSE
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ledger.%I TO ledger_app', found.relname);
        END IF;
    END LOOP;

    FOR found IN
        SELECT nspname FROM pg_namespace WHERE nspname = ANY (derived) AND nspowner <> 'ledger_app'::regrole
    LOOP
        EXECUTE format('ALTER SCHEMA %I OWNER TO ledger_app', found.nspname);
    END LOOP;
    FOR found IN
        SELECT c.oid::regclass AS name FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE nspname = ANY (derived) AND relkind IN ('r', 'p', 'v') AND relowner <> 'ledger_app'::regrole
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO ledger_app', found.name);
    END LOOP;
    FOR found IN
        SELECT c.oid::regclass AS name FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE nspname = ANY (derived) AND relkind = 'S' AND relowner <> 'ledger_app'::regrole
    LOOP
        EXECUTE format('ALTER SEQUENCE %s OWNER TO ledger_app', found.name);
    END LOOP;
END $$;
