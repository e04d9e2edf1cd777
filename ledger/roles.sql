-- The role that the ledger's processes work as, once their schemas are there (`ledger.event_store`). It may add to the
-- record and read it, and owns all else that the ledger keeps in this database: what is derived from the record, and what
-- must not be in it for ever. Applied after each schema, as the login role; `ledger.role` is its name. Before
-- PostgreSQL 17 nobody may lock the log without the right to change it; then there is no such role.

DO $$
DECLARE
    found record;
    app CONSTANT text := current_setting('ledger.role');
    app_id oid;
    owned CONSTANT text[] := ARRAY[
        'archive', 'audit', 'data', 'discarded', 'lineage', 'rebuilding', 'rejects', 'subjects', 'superseded', 'trail',
        'views', 'work'
    ];
BEGIN
    IF current_setting('server_version_num')::int < 170000 THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = app) THEN
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', app);
        EXCEPTION WHEN insufficient_privilege THEN RETURN;
        END;
    END IF;
    IF NOT pg_has_role(current_user, app, 'SET') THEN
        EXECUTE format('GRANT %I TO %I', app, current_user);
    END IF;
    SELECT oid INTO app_id FROM pg_roles WHERE rolname = app;
    EXECUTE format('GRANT CREATE, TEMPORARY ON DATABASE %I TO %I', current_database(), app);

    EXECUTE format('GRANT USAGE ON SCHEMA ledger TO %I', app);
    EXECUTE format('GRANT USAGE ON ALL SEQUENCES IN SCHEMA ledger TO %I', app);
    FOR found IN SELECT relname FROM pg_class WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r' LOOP
        IF found.relname = ANY (ledger.guarded_tables()) THEN
            EXECUTE format('GRANT SELECT, INSERT, MAINTAIN ON ledger.%I TO %I', found.relname, app);
        ELSE
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ledger.%I TO %I', found.relname, app);
        END IF;
    END LOOP;

    FOR found IN SELECT nspname FROM pg_namespace WHERE nspname = ANY (owned) AND nspowner <> app_id LOOP
        EXECUTE format('ALTER SCHEMA %I OWNER TO %I', found.nspname, app);
    END LOOP;
    FOR found IN
        SELECT c.oid::regclass AS name FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE nspname = ANY (owned) AND relkind IN ('r', 'p', 'v') AND relowner <> app_id
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO %I', found.name, app);
    END LOOP;
    FOR found IN
        SELECT c.oid::regclass AS name FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE nspname = ANY (owned) AND relkind = 'S' AND relowner <> app_id
    LOOP
        EXECUTE format('ALTER SEQUENCE %s OWNER TO %I', found.name, app);
    END LOOP;
END $$;
