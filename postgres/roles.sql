-- Who may do what in the demo's PostgreSQL: run as its superuser when the data folder is new, and idempotent.
--
-- The superuser becomes `superuser`, whom pg_hba.conf lets in through a Unix-domain socket only. `postgres`, as which
-- everyone on this machine can log in over TCP, owns the traces and reads everything, but is no superuser: it cannot run
-- programs, read files or reach other databases. An empty line ends each statement, because PostgreSQL's single-user mode
-- wants it so.

-- The first role of a cluster (its oid is 10) stays a superuser for ever, and only another superuser can rename it.
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

-- Readers shall neither leave large objects behind nor hold up others, by advisory locks or by ending their sessions.
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

-- Data of the time when `postgres` was the superuser: what the superuser owns besides PostgreSQL and its extensions.
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
                -- TimescaleDB's chunks get the owner of their hypertable.
                and relname !~ '^(_hyper|compress_hyper)_\d+_\d+_chunk$'
                -- The sequence of an identity column belongs to its table.
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

-- Roles of that time, which promscale looks after.
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
