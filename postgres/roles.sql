-- Roles and privileges of the demo's PostgreSQL. Idempotent; run by the superuser when a cluster is new, and in
-- single-user mode, where an empty line ends each statement.
--
-- The superuser is renamed to `superuser`, which pg_hba.conf admits through a Unix-domain socket only. `postgres`, as
-- which everyone on this machine can log in over TCP, owns the traces and may read everything, but is no superuser: it
-- cannot run programs, read files or connect to other databases.

-- The first role of a cluster (oid 10) always stays a superuser, and only another superuser can rename it.
do $$
begin
    if exists (select from pg_roles where oid = 10 and rolname = 'postgres') then
        create role renamer superuser;
        set session authorization renamer;
        alter role postgres rename to superuser;
        create role postgres login createrole;
    end if;
end $$;

set session authorization superuser;

drop role if exists renamer;

grant pg_read_all_data, pg_monitor, pg_signal_backend to postgres;

alter database postgres owner to postgres;

revoke connect on database template1 from public;

revoke temporary on database postgres from public;

-- Readers must not create large objects, take advisory locks, or end other sessions.
do $$
declare
    function regprocedure;
begin
    for function in
        select oid from pg_proc
        where pronamespace = 'pg_catalog'::regnamespace
            and (
                proname ~ '^lo_' or proname in ('loread', 'lowrite')
                or proname ~ '^pg_(try_)?advisory_'
                or proname in ('pg_cancel_backend', 'pg_terminate_backend')
            )
    loop
        execute format('revoke execute on function %s from public', function);
        execute format('grant execute on function %s to postgres', function);
    end loop;
end $$;

-- In clusters from before this file, `postgres` was the superuser. Give it the superuser's objects, except those of
-- PostgreSQL itself and of extensions.
do $$
declare
    statement text;
begin
    for statement in
        with owned (classid, objid) as (
            select 'pg_namespace'::regclass, oid from pg_namespace where nspowner = 10
            union all
            select 'pg_class'::regclass, oid from pg_class
            where relowner = 10 and relkind in ('r', 'p', 'v', 'm', 'f', 'S')
                -- TimescaleDB's chunks take the owner of their hypertable.
                and relname !~ '^(_hyper|compress_hyper)_\d+_\d+_chunk$'
                -- The sequence of an identity column takes the owner of its table.
                and not (
                    relkind = 'S'
                    and exists (select from pg_depend as d where d.objid = pg_class.oid and d.deptype in ('i', 'a'))
                )
            union all
            select 'pg_proc'::regclass, oid from pg_proc where proowner = 10
            union all
            select 'pg_type'::regclass, oid from pg_type
            where typowner = 10 and typtype in ('d', 'e', 'r')
            union all
            select 'pg_statistic_ext'::regclass, oid from pg_statistic_ext where stxowner = 10
        )
        select format('alter %s %s owner to postgres', replace(object.type, ' object', ''), object.identity)
        from owned
        cross join pg_identify_object(classid, objid, 0) as object
        where objid >= 16384
            and not exists (
                select from pg_depend as d where (d.classid, d.objid, d.deptype) = (owned.classid, owned.objid, 'e')
            )
    loop
        execute statement;
    end loop;
end $$;

-- In such clusters, promscale's roles exist already; `postgres` needs the right to change them.
do $$
declare
    role_name text;
begin
    for role_name in
        select rolname from pg_roles where rolname in ('prom_reader', 'prom_writer', 'trace_viewer')
    loop
        execute format('grant %I to postgres with admin option', role_name);
    end loop;
end $$;
