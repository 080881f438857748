-- Roles for programs that only read, and how they read a result of any size.

-- Each of these has a role of its own: `explorer`, `grafana`, and `trace_viewer` for people with psql. A role can change
-- its own settings, also against the others who log in as it, so promscale's upkeep calls this again and again. Roles of
-- these names that are not promscale's members of prom_reader, or that it may not alter, stay as they are.
create function _promscale.restore_readers() returns void
language plpgsql as $$
declare
    reader text;
begin
    for reader in
        select r.rolname
        from pg_roles as r
        where r.rolname in ('trace_viewer', 'explorer', 'grafana')
            and exists (
                select from pg_auth_members as m where m.member = r.oid and m.roleid = 'prom_reader'::regrole
            )
            and (
                select array_agg(format('%s: %s', s.setdatabase, s.setconfig))
                from pg_db_role_setting as s
                where s.setrole = r.oid
            ) is distinct from array['0: {default_transaction_read_only=on,statement_timeout=30s}']
            and (
                pg_has_role(current_user, r.oid, 'member with admin option')
                -- Until PostgreSQL 15, who may create roles may alter all of them.
                or current_setting('server_version_num')::int < 160000
                and (select own.rolcreaterole from pg_roles as own where own.rolname = current_user)
            )
    loop
        execute format('alter role %I in database %I reset all', reader, current_database());
        execute format('alter role %I reset all', reader);
        execute format('alter role %I set default_transaction_read_only = on', reader);
        execute format('alter role %I set statement_timeout = ''30s''', reader);
    end loop;
end $$;

do $$
declare
    reader text;
begin
    foreach reader in array array['explorer', 'grafana'] loop
        begin
            execute format('create role %I login', reader);
        exception when duplicate_object then
            continue; -- roles belong to the cluster: another database made it first
        end;
        execute format('grant prom_reader to %I', reader);
    end loop;
    -- Since PostgreSQL 16, who has created a role is not yet its member. promscale reads for Jaeger as prom_reader.
    if not pg_has_role(current_user, 'prom_reader', 'usage') then
        grant prom_reader to current_user;
    end if;
    perform _promscale.restore_readers();
end $$;

-- Up to so many more rows of an open cursor, each value as text. For readers with little memory: where the rows together
-- have more than so many bytes, there is an error, with the SQLSTATE of program_limit_exceeded, and no row.
create function ps_trace.fetch_text(cursor refcursor, max_rows int, max_bytes bigint) returns setof text[]
language plpgsql as $$
declare
    found_row record;
    bytes bigint := 0;
begin
    for number in 1..max_rows loop
        fetch cursor into found_row;
        exit when not found;
        bytes := bytes + pg_column_size(found_row);
        if bytes > max_bytes then
            raise program_limit_exceeded using message = format('the result has more than %s bytes', max_bytes);
        end if;
        return next array(select field.value from json_each_text(row_to_json(found_row)) as field);
    end loop;
end $$;

-- The shortest usual interval, not shorter than `shortest`, of which `most` cover the time: for charts with a bounded number
-- of points. Beyond a day it is any number of whole days.
create function ps_trace.time_step(
    time_from timestamptz, time_to timestamptz, shortest interval default '1 minute', most int default 1000
) returns interval
language sql immutable parallel safe as $$
    select coalesce(
        (
            select min(usual)
            from unnest(
                '{1 s, 2 s, 5 s, 10 s, 15 s, 30 s, 1 min, 2 min, 5 min, 10 min, 15 min, 30 min, 1 h, 2 h, 3 h, 6 h, 12 h,
                1 day}'::interval[]
            ) as usual
            where usual >= shortest and usual * most >= time_to - time_from
        ),
        make_interval(days => ceil(extract(epoch from time_to - time_from) / 86400 / most)::int)
    )
$$;

revoke execute on function _promscale.restore_readers from public;
grant execute on function _promscale.restore_readers to prom_writer;
