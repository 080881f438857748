-- Citus as an engine of the store: spans and their OTLP bytes are distributed over its nodes by trace id, and partitioned
-- by time as on plain PostgreSQL. A store is distributed if its database had the extension when the store was made.
--
-- Origins, and what belongs to them, are reference tables: every node has them and joins its spans with them. Summaries
-- and the bookkeeping are tables of the coordinator. Citus cannot change tables in a CTE of a statement on distributed
-- tables, has no recursive query and no correlated subquery with a limit over them, and no parameters in functions of
-- language SQL that read them. The functions below do without, and where that costs nothing, on every engine alike.

do $$
declare
    distributed constant boolean := exists (select from pg_extension where extname = 'citus');
    has_coordinator boolean;
begin
    execute format(
        'create function _promscale.is_citus() returns boolean language sql immutable parallel safe return %L::boolean',
        distributed
    );
    if distributed then
        if _promscale.is_timescaledb() then
            raise feature_not_supported using
                message = 'this database has the extensions citus and timescaledb, which exclude each other',
                hint = 'Use a database that has one of them.';
        end if;
        execute 'select exists (select from pg_dist_node where groupid = 0)' into has_coordinator;
        if not has_coordinator then
            raise object_not_in_prerequisite_state using
                message = 'the coordinator is not among the nodes of Citus, and would have no reference tables',
                hint = 'Call citus_set_coordinator_host with a name by which the workers reach this server.';
        end if;
    end if;
end $$;

-- For readers, who may not call functions of _promscale.
create function ps_trace.is_distributed() returns boolean
language sql immutable parallel safe
return _promscale.is_citus();


-- Partitions --------------------------------------------------------------------------------------------------------

-- Creates an empty table like the one of all spans or of all OTLP bytes, for a partition of it.
create function _promscale.create_table_like(kind text, name text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    execute format('create table _promscale.%I (like _promscale.%I including storage including constraints)', name, kind);
    if _promscale.is_citus() then
        perform create_distributed_table(
            format('_promscale.%I', name)::regclass, 'trace_id', colocate_with => '_promscale.span'
        );
    end if;
end $$;

create or replace function _promscale.create_partition_table(
    kind text, name text, starts timestamptz, ends timestamptz, source text
)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    target constant text := kind || '_' || name;
    time_column constant text := case kind when 'span' then 'start_time' else 'last_start_time' end;
    expected boolean;
    rows bigint;
begin
    -- A statement that knows the partitions already, and waits for the source, would find the moved rows in neither of
    -- the two. With the parent locked, there is no such statement. The column is for Citus, which cannot plan a subquery
    -- without one: https://github.com/citusdata/citus/issues/5094.
    execute format(
        'select exists (select 1 from _promscale.%I where %I >= $1 and %I < $2)', source, time_column, time_column
    ) into expected using starts, ends;
    if expected then
        execute format('lock table only _promscale.%I in access exclusive mode', kind);
    end if;
    -- Writers must not put more of its time into the default partition after its rows are moved.
    execute format('lock table _promscale.%I in access exclusive mode', source);
    perform _promscale.create_table_like(kind, target);
    execute format(
        'insert into _promscale.%I select * from _promscale.%I where %I >= $1 and %I < $2',
        target, source, time_column, time_column
    ) using starts, ends;
    get diagnostics rows = row_count;
    if rows > 0 and not expected then
        raise serialization_failure using message = format('rows came into %s just now: try again', source);
    end if;
    if rows > 0 then
        execute format('delete from _promscale.%I where %I >= $1 and %I < $2', source, time_column, time_column)
        using starts, ends;
    end if;
    if kind = 'span' then
        execute format(
            'create unique index on _promscale.%I (%s)',
            target,
            case
                -- On Citus, an index is unique within each shard, and so it has the trace id itself.
                when _promscale.is_citus() then 'start_time, trace_id, span_id, start_ns'
                else 'start_time, _promscale.identity_hash(trace_id, span_id, start_ns)'
            end
        );
    end if;
    execute format(
        'alter table _promscale.%I attach partition _promscale.%I for values from (%L) to (%L)',
        kind, target, starts, ends
    );
end $$;


-- Closing -----------------------------------------------------------------------------------------------------------

create or replace function _promscale.begin_closing(partition_name text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    times constant _promscale.partition := (select p from _promscale.partition as p where p.name = partition_name);
    kind text;
    target text;
    time_column text;
begin
    foreach kind in array _promscale.partitioned_tables() loop
        target := 'closing_' || kind || '_' || partition_name;
        time_column := case kind when 'span' then 'start_time' else 'last_start_time' end;
        execute format('drop table if exists _promscale.%I', target);
        perform _promscale.create_table_like(kind, target);
        execute format(
            'alter table _promscale.%I add constraint times check (%I >= %L and %I < %L)',
            target, time_column, times.starts_at, time_column, times.ends_at
        );
    end loop;
end $$;

-- Where at least nine in ten of an origin's spans have the same value of an attribute, that belongs to the origin's tag
-- set. `sample` is a query for the origin and the attributes of some spans. Arrays and objects are left out: @> finds a
-- part of them, too. Inserts the tag sets that do not exist yet.
create or replace function _promscale.choose_tag_sets(sample text)
returns table (origin_id bigint, tags jsonb, keys text[], tag_set_id int)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    -- The cast is for TimescaleDB, on which the column is of a domain.
    for origin_id, tags, keys in execute format(
        $statement$
        with sample (origin_id, tags) as materialized (
            %s
        ), origins as (
            select s.origin_id, count(*) as spans from sample as s group by s.origin_id having count(*) >= 10
        ), frequent as (
            select s.origin_id, tag.key, tag.value
            from sample as s
            cross join lateral jsonb_each(s.tags) as tag
            inner join origins as o on o.origin_id = s.origin_id
            where jsonb_typeof(tag.value) not in ('array', 'object')
            group by s.origin_id, tag.key, tag.value, o.spans
            having count(*) >= 0.9 * o.spans
        )
        select f.origin_id::bigint, jsonb_object_agg(f.key, f.value), array_agg(f.key)
        from frequent as f
        group by f.origin_id
        $statement$,
        sample
    ) loop
        tag_set_id := (
            select t.id from _promscale.tag_set as t
            where t.origin_id = choose_tag_sets.origin_id and t.tags = choose_tag_sets.tags
            limit 1
        );
        if tag_set_id is null then
            insert into _promscale.tag_set (origin_id, tags)
            values (choose_tag_sets.origin_id, choose_tag_sets.tags)
            returning id into tag_set_id;
        end if;
        return next;
    end loop;
end $$;

create or replace function _promscale.copy_spans_densely(partition_name text) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    source constant text := format('_promscale.%I', 'span_' || partition_name);
    target constant text := format('_promscale.%I', 'closing_span_' || partition_name);
    bytes bigint;
    chosen jsonb;
    spans bigint;
begin
    if _promscale.is_timescaledb() then
        perform _promscale.compress_chunks(partition_name);
        return 0;
    end if;
    select b.row_bytes into bytes
    from _promscale.table_bytes('span') as b
    inner join _promscale.partition as p on p.starts_at = b.starts_at
    where p.name = partition_name;
    -- About 20,000 rows tell what is frequent; a page has some twenty.
    select jsonb_agg(c) into chosen
    from _promscale.choose_tag_sets(
        format(
            'select s.origin_id, s.span_tags from %s as s tablesample system (%s) where s.tag_set_id is null',
            source, least(100, 100 * 1000 / greatest(bytes / 8192, 1))
        )
    ) as c;
    update _promscale.partition as p
    set tag_set_ids = (select array_agg((c ->> 'tag_set_id')::int) from jsonb_array_elements(chosen) as c)
    where p.name = partition_name;
    execute format(
        $statement$
        insert into %s
        select
            s.trace_id, s.span_id, s.start_time, s.duration_ms, s.parent_span_id, s.origin_id,
            coalesce(s.tag_set_id, c.tag_set_id),
            s.status_code, s.start_ns, s.dropped_tags_count, s.dropped_events_count, s.dropped_link_count,
            s.trace_state, s.status_message,
            case when c.tag_set_id is null then s.span_tags else nullif(s.span_tags - c.keys, '{}') end,
            s.events, s.links
        from %s as s
        left join jsonb_to_recordset(%L) as c (origin_id bigint, tags jsonb, keys text[], tag_set_id int)
            on c.origin_id = s.origin_id and s.tag_set_id is null and s.span_tags @> c.tags
        $statement$,
        target, source, coalesce(chosen, '[]')
    );
    get diagnostics spans = row_count;
    -- Full pages, because late spans are rare.
    execute format('create index on %s (trace_id, parent_span_id) with (fillfactor = 100)', target);
    execute format('create index on %s (start_time) with (fillfactor = 100)', target);
    execute format(
        'create index on %s (start_time) include (duration_ms, origin_id) with (fillfactor = 100)'
        ' where parent_span_id is null',
        target
    );
    execute format('analyze %s', target);
    return spans;
end $$;


-- Deleting ----------------------------------------------------------------------------------------------------------

create or replace function _promscale.delete_old_spans() returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    cutoff constant timestamptz := now() - (select s.trace_retention_period from _promscale.store as s);
    starts timestamptz;
    ends timestamptz;
    minutes timestamptz[];
begin
    delete from _promscale.traces_data_default as t where t.last_start_time < cutoff;
    if _promscale.is_timescaledb() then
        select min(c.range_start), max(c.range_end) into starts, ends
        from timescaledb_information.chunks as c
        where c.hypertable_schema = '_promscale' and c.hypertable_name = 'span' and c.range_end <= cutoff;
        if starts is null then
            return false;
        end if;
        perform _promscale.drop_chunks(starts, ends);
        perform _promscale.forget_minutes(starts, ends);
        return true;
    end if;
    minutes := array(
        select distinct _promscale.minute_of(s.start_time) from _promscale.span_default as s where s.start_time < cutoff
    );
    delete from _promscale.span_default as s
    where s.start_time < cutoff and _promscale.minute_of(s.start_time) = any(minutes);
    insert into _promscale.touched_minute (minute)
    select d.minute from unnest(minutes) as d (minute)
    union
    select m.minute
    from _promscale.minute as m
    inner join unnest(minutes) as d (minute)
        on m.parents_from < d.minute + interval '1 minute' and m.parents_until >= d.minute;
    return minutes <> '{}';
end $$;

-- Removes what no stored span refers to any more. It changes the store's generation, so that writers write again what
-- they need of it.
create or replace function _promscale.delete_unused_origins() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    unused bigint[];
begin
    -- In the order in which writers lock them.
    lock table _promscale.resource, _promscale.scope, _promscale.operation, _promscale.origin in share row exclusive mode;
    perform pg_advisory_xact_lock(_promscale.summary_lock());
    create temporary table used on commit drop as
    select s.origin_id, s.tag_set_id
    from (select distinct t.minute from _promscale.touched_minute as t) as t
    inner join _promscale.span as s on s.start_time >= t.minute and s.start_time < t.minute + interval '1 minute'
    group by s.origin_id, s.tag_set_id;
    create temporary table summarised on commit drop as
    select m.origin_ids, m.tag_set_ids
    from _promscale.minute as m
    where not exists (select from _promscale.touched_minute as t where t.minute = m.minute);
    unused := array(
        select o.id from _promscale.origin as o
        except
        select unnest(s.origin_ids) from pg_temp.summarised as s
        except
        select u.origin_id from pg_temp.used as u
    );
    if unused <> '{}' then
        delete from _promscale.origin as o where o.id = any(unused);
        unused := array(select p.id from _promscale.operation as p except select o.operation_id from _promscale.origin as o);
        delete from _promscale.operation as p where p.id = any(unused);
        unused := array(select r.id from _promscale.resource as r except select o.resource_id from _promscale.origin as o);
        delete from _promscale.resource as r where r.id = any(unused);
        unused := array(select c.id from _promscale.scope as c except select o.scope_id from _promscale.origin as o);
        delete from _promscale.scope as c where c.id = any(unused);
        update _promscale.store set generation = gen_random_uuid();
    end if;
    unused := array(
        select t.id
        from _promscale.tag_set as t
        where not (t.current and exists (select from _promscale.origin as o where o.id = t.origin_id))
        except
        select unnest(p.tag_set_ids) from _promscale.partition as p
        except
        select unnest(s.tag_set_ids) from pg_temp.summarised as s
        except
        select u.tag_set_id from pg_temp.used as u
    );
    if unused <> '{}' then
        delete from _promscale.tag_set as t where t.id = any(unused);
        update _promscale.store
        set tag_sets_version = tag_sets_version + 1, tag_sets_valid_since = tag_sets_version + 1;
    end if;
end $$;


-- Bytes -------------------------------------------------------------------------------------------------------------

-- The one value that a query returns, on each node; without Citus, that of this server. With the rights of the caller.
create function _promscale.ask_nodes(query text) returns setof text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    answer record;
begin
    if not _promscale.is_citus() then
        return query execute format('select (%s)::text', query);
        return;
    end if;
    for answer in execute 'select * from run_command_on_all_nodes($1)' using query loop
        if not answer.success then
            raise '%', answer.result;
        end if;
        return next answer.result;
    end loop;
end $$;

-- Bytes of this node's tables of spans, or of OTLP bytes: [{"name", "row_bytes", "index_bytes"}, ...]. On Citus, the table
-- of a shard has the name of the partition and a number. Returns null at the lock timeout, which ends a deadlock that
-- PostgreSQL cannot detect: Citus calls this function in a session of its own, and the transaction that waits for it may
-- hold the very lock that the table's locker waits for.
create function _promscale.bytes_of_node(kind text) returns json
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if _promscale.is_citus() then
        set local lock_timeout = '5s';
    end if;
    return (
        select coalesce(json_agg(t), '[]')
        from (
            select
                substring(c.relname from '^' || kind || '_(?:[0-9T]+|default)') as name,
                sum(pg_table_size(c.oid)) as row_bytes,
                sum(pg_indexes_size(c.oid)) as index_bytes
            from pg_class as c
            where c.relnamespace = '_promscale'::regnamespace and c.relkind = 'r'
                and c.relname ~ ('^' || kind || '_([0-9T]+|default)')
            group by 1
        ) as t
    );
exception when lock_not_available then
    return null;
end $$;

-- Bytes of each partition's spans, or OTLP bytes; the default partition has no times.
create function _promscale.table_bytes(kind text)
returns table (starts_at timestamptz, row_bytes bigint, index_bytes bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    nodes constant text[] := array(
        select * from _promscale.ask_nodes(format('select _promscale.bytes_of_node(%L)', kind))
    );
begin
    if array_position(nodes, null) is not null or array_position(nodes, '') is not null then
        raise lock_not_available using message = 'a partition is locked, its size cannot be read now';
    end if;
    return query
    select p.starts_at, sum(b.row_bytes)::bigint, sum(b.index_bytes)::bigint
    from unnest(nodes) as node
    cross join lateral json_to_recordset(node::json) as b (name text, row_bytes bigint, index_bytes bigint)
    left join _promscale.partition as p on b.name = kind || '_' || p.name
    where p.name is not null or b.name = kind || '_default'
    group by p.starts_at;
end $$;

-- Bytes of each partition's spans; the default partition has no times.
create or replace function _promscale.span_bytes()
returns table (starts_at timestamptz, row_bytes bigint, index_bytes bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    if _promscale.is_timescaledb() then
        return query
        select p.starts_at, sum(b.table_bytes + coalesce(b.toast_bytes, 0))::bigint, sum(b.index_bytes)::bigint
        from public.chunks_detailed_size('_promscale.span') as b
        inner join timescaledb_information.chunks as c
            on c.chunk_schema = b.chunk_schema and c.chunk_name = b.chunk_name
        left join _promscale.partition as p on p.starts_at <= c.range_start and c.range_end <= p.ends_at
        group by 1;
    else
        return query select * from _promscale.table_bytes('span');
    end if;
end $$;

create or replace function _promscale.lossless_bytes() returns table (starts_at timestamptz, bytes bigint)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select t.starts_at, t.row_bytes + t.index_bytes from _promscale.table_bytes('traces_data') as t
$$;

-- Spans that start in a minute, counted.
create function _promscale.spans_in(asked timestamptz) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
as $$
begin
    return (
        select count(*) from _promscale.span as s where s.start_time >= asked and s.start_time < asked + interval '1 minute'
    );
end $$;

create or replace function _promscale.span_count(starts timestamptz, ends timestamptz) returns bigint
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select (
        select coalesce(sum(m.spans), 0)
        from _promscale.minute as m
        where m.minute >= $1 and m.minute < $2
            and not exists (select from _promscale.touched_minute as t where t.minute = m.minute)
    )::bigint + (
        select coalesce(sum(_promscale.spans_in(t.minute)), 0)
        from (select distinct t.minute from _promscale.touched_minute as t where t.minute >= $1 and t.minute < $2) as t
    )::bigint
$$;

-- All that the budget counts: the database, and the write-ahead log where its size may be read, as by default only a
-- superuser and members of pg_monitor may. On Citus, those of all nodes together.
create or replace function ps_trace.disk_used() returns bigint
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select sum(node::bigint)::bigint
    from _promscale.ask_nodes(
        case
            when has_function_privilege('pg_ls_waldir()', 'execute')
                then 'select pg_database_size(current_database()) + coalesce(sum(size), 0) from pg_ls_waldir()'
            else 'select pg_database_size(current_database())'
        end
    ) as node
$$;


-- Spans of some traces ----------------------------------------------------------------------------------------------
-- Walks read the spans of their traces by these functions first, and then go from span to span.

create type _promscale.walked_span as (
    trace_id uuid, span_id bigint, parent_span_id bigint, origin_id bigint, start_time timestamptz,
    duration_ms double precision, status_code ps_trace.status_code
);

do $do$
begin
    if _promscale.is_citus() then
        -- In a statement on all spans, each node calls these functions for its own traces: nested execution.
        create function _promscale.spans_of_trace(trace_id uuid) returns table (parent_span_id bigint, span_id bigint)
        language plpgsql stable security definer set search_path = pg_catalog, pg_temp
        set citus.allow_nested_distributed_execution = on
        as $$
        begin
            return query select s.parent_span_id, s.span_id from _promscale.span as s where s.trace_id = $1;
        end $$;

        create function _promscale.spans_of_traces(trace_ids uuid[], starts timestamptz, ends timestamptz)
        returns setof _promscale.walked_span
        language plpgsql stable security definer set search_path = pg_catalog, pg_temp
        set citus.allow_nested_distributed_execution = on
        as $$
        begin
            return query
            select s.trace_id, s.span_id, s.parent_span_id, s.origin_id, s.start_time, s.duration_ms, s.status_code
            from _promscale.span as s
            where s.trace_id = any(trace_ids) and s.start_time >= starts and s.start_time < ends;
        end $$;
    else
        create function _promscale.spans_of_trace(trace_id uuid) returns table (parent_span_id bigint, span_id bigint)
        language sql stable
        begin atomic
            select s.parent_span_id, s.span_id from ps_trace.span as s where s.trace_id = $1;
        end;

        create function _promscale.spans_of_traces(trace_ids uuid[], starts timestamptz, ends timestamptz)
        returns setof _promscale.walked_span
        language sql stable
        begin atomic
            select s.trace_id, s.span_id, s.parent_span_id, s.origin_id, s.start_time, s.duration_ms, s.status_code
            from unnest(trace_ids) as t (id)
            cross join lateral (
                select
                    s.trace_id, s.span_id, s.parent_span_id, s.origin_id::bigint as origin_id, s.start_time, s.duration_ms,
                    s.status_code
                from _promscale.span as s
                where s.trace_id = t.id and s.start_time >= starts and s.start_time < ends
                offset 0 -- keeps the planner from reading all spans of the time for a join
            ) as s;
        end;
    end if;
end $do$;

create or replace function ps_trace.trace_tree(trace_id uuid)
returns table (trace_id ps_trace.trace_id, parent_span_id bigint, span_id bigint, lvl int, path bigint[])
language sql stable
begin atomic
    with recursive spans as materialized (
        select s.parent_span_id, s.span_id from _promscale.spans_of_trace($1) as s
    ), tree as (
        select s.parent_span_id, s.span_id, 1 as lvl, array[s.span_id] as path
        from spans as s
        where s.parent_span_id is null
        union all
        select s.parent_span_id, s.span_id, t.lvl + 1, t.path || s.span_id
        from tree as t
        inner join spans as s on s.parent_span_id = t.span_id
        where s.span_id <> all (t.path)
    )
    select $1::ps_trace.trace_id, t.parent_span_id, t.span_id, t.lvl, t.path
    from tree as t;
end;

create or replace function ps_trace.upstream_spans(trace_id uuid, span_id bigint, max_dist int default null)
returns table (trace_id ps_trace.trace_id, parent_span_id bigint, span_id bigint, dist int, path bigint[])
language sql stable
begin atomic
    with recursive spans as materialized (
        select s.parent_span_id, s.span_id from _promscale.spans_of_trace($1) as s
    ), up as (
        select s.parent_span_id, s.span_id, 0 as dist, array[s.span_id] as path
        from spans as s
        where s.span_id = $2
        union all
        select s.parent_span_id, s.span_id, u.dist + 1, s.span_id || u.path
        from up as u
        inner join spans as s on s.span_id = u.parent_span_id
        where s.span_id <> all (u.path) and ($3 is null or u.dist < $3)
    )
    select $1::ps_trace.trace_id, u.parent_span_id, u.span_id, u.dist, u.path
    from up as u;
end;

create or replace function ps_trace.downstream_spans(trace_id uuid, span_id bigint, max_dist int default null)
returns table (trace_id ps_trace.trace_id, parent_span_id bigint, span_id bigint, dist int, path bigint[])
language sql stable
begin atomic
    with recursive spans as materialized (
        select s.parent_span_id, s.span_id from _promscale.spans_of_trace($1) as s
    ), down as (
        select s.parent_span_id, s.span_id, 0 as dist, array[s.span_id] as path
        from spans as s
        where s.span_id = $2
        union all
        select s.parent_span_id, s.span_id, d.dist + 1, d.path || s.span_id
        from down as d
        inner join spans as s on s.parent_span_id = d.span_id
        where s.span_id <> all (d.path) and ($3 is null or d.dist < $3)
    )
    select $1::ps_trace.trace_id, d.parent_span_id, d.span_id, d.dist, d.path
    from down as d;
end;

create or replace function ps_trace.sibling_spans(trace_id uuid, span_id bigint)
returns table (trace_id ps_trace.trace_id, parent_span_id bigint, span_id bigint)
language sql stable
begin atomic
    with spans as materialized (
        select s.parent_span_id, s.span_id from _promscale.spans_of_trace($1) as s
    )
    select $1::ps_trace.trace_id, s.parent_span_id, s.span_id
    from spans as s
    where exists (
        select
        from spans as self
        where self.span_id = $2 and self.parent_span_id is not distinct from s.parent_span_id
    );
end;

create or replace function ps_trace.span_tree(trace_id uuid, span_id bigint, max_dist int default null)
returns table (
    trace_id ps_trace.trace_id, parent_span_id bigint, span_id bigint,
    dist int, is_upstream boolean, is_downstream boolean, path bigint[]
)
language sql stable
begin atomic
    select u.trace_id, u.parent_span_id, u.span_id, u.dist, u.dist > 0, false, u.path
    from ps_trace.upstream_spans($1, $2, $3) as u
    union all
    select d.trace_id, d.parent_span_id, d.span_id, d.dist, false, true, d.path
    from ps_trace.downstream_spans($1, $2, $3) as d
    where d.dist > 0;
end;

-- The first traces, by the hash of their ids, with spans of these origins in a time.
create function _promscale.first_traces(origin_ids bigint[], starts timestamptz, ends timestamptz, traces bigint)
returns setof uuid
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan set jit = off
as $$
begin
    return query
    select s.trace_id
    from _promscale.span as s
    where s.start_time >= starts and s.start_time < ends and s.origin_id = any(origin_ids)
    group by s.trace_id
    order by uuid_hash_extended(s.trace_id, 0), s.trace_id
    limit traces;
end $$;

create or replace function _promscale.sample_traces(
    time_from timestamptz, time_to timestamptz, service text, operation text
)
returns table (trace_id uuid, starts timestamptz, ends timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan set jit = off rows 500
as $$
declare
    sample_size constant int := 500;
    origins constant bigint[] := array(
        select o.id from _promscale.origin as o where o.service_name = service and o.span_name = operation
    );
    operations constant bigint[] := array(
        select o.id from _promscale.operation as o where o.service_name = service and o.span_name = operation
    );
begin
    return query
    with minutes as (
        select m.minute, sum(m.calls) as calls, sum(sum(m.calls)) over (order by m.minute) as calls_until
        from ps_trace.operation_minute as m
        where m.minute > time_from - interval '1 minute' and m.minute < time_to
            and m.service_name = service and m.span_name = operation
        group by m.minute
    ), every as (
        select greatest(sum(m.calls) / sample_size, 1) as step
        from minutes as m
    ), shares as materialized (
        select
            m.minute,
            greatest(m.minute, time_from) as starts,
            least(m.minute + interval '1 minute', time_to) as ends,
            -- Every step-th call takes a trace.
            ceil(m.calls_until / every.step) - ceil((m.calls_until - m.calls) / every.step) as traces
        from minutes as m
        cross join every
    ), kept as materialized (
        select
            s.minute, s.starts, s.ends, s.traces, id,
            row_number() over (partition by s.minute order by uuid_hash_extended(id, 0), id) as number
        from shares as s
        inner join _promscale.operation_trace as t on t.minute = s.minute and t.operation_id = any(operations)
        cross join lateral unnest(t.trace_ids[:s.traces::int]) as id
        where s.traces <= _promscale.kept_traces()
            and s.ends - s.starts = interval '1 minute'
            and not exists (select from _promscale.touched_minute as touched where touched.minute = s.minute)
        group by s.minute, s.starts, s.ends, s.traces, id
    ), found as (
        select k.id, k.starts, k.ends
        from kept as k
        where k.number <= k.traces
        union all
        select t.id, s.starts, s.ends
        from shares as s
        cross join lateral _promscale.first_traces(origins, s.starts, s.ends, s.traces::bigint) as t (id)
        where s.traces > 0 and s.minute not in (select k.minute from kept as k)
    )
    select f.id, min(f.starts), max(f.ends)
    from found as f
    group by f.id
    order by uuid_hash_extended(f.id, 0), f.id
    limit sample_size;
end $$;

create or replace function _promscale.walk_sample(
    time_from timestamptz, time_to timestamptz, service text, operation text, upwards boolean
)
returns table (
    trace_id ps_trace.trace_id, span_id bigint, parent_span_id bigint, service_name text, span_name text,
    start_time timestamptz, duration_ms double precision, status_code ps_trace.status_code
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan set jit = off set work_mem = '32MB' rows 10000
as $$
declare
    origins constant bigint[] := array(
        select o.id from _promscale.origin as o where o.service_name = service and o.span_name = operation
    );
    traces uuid[];
    read_from timestamptz;
    read_to timestamptz;
begin
    -- Hour by hour, so that a trace is looked for in few partitions. Its parents may have started half an hour before the
    -- calls, and its children half an hour after them.
    for traces, read_from, read_to in
        select array_agg(t.trace_id), min(t.starts) - interval '30 minutes', max(t.ends) + interval '30 minutes'
        from _promscale.sample_traces(time_from, time_to, service, operation) as t
        group by date_bin('1 hour', t.starts, 'epoch')
    loop
        return query
        with recursive spans as materialized (
            select s.* from _promscale.spans_of_traces(traces, read_from, read_to) as s
        ), walked as (
            select s.*
            from spans as s
            where s.origin_id = any(origins) and s.start_time >= time_from and s.start_time < time_to
            union
            select further.*
            from walked as w
            inner join spans as further
                on further.trace_id = w.trace_id
                and case when upwards then further.span_id else further.parent_span_id end
                    = case when upwards then w.parent_span_id else w.span_id end
        ), origin as materialized (
            select o.id, o.service_name, o.span_name
            from _promscale.origin as o
        )
        select
            w.trace_id::ps_trace.trace_id, w.span_id, w.parent_span_id, o.service_name, o.span_name,
            w.start_time, w.duration_ms, w.status_code
        from walked as w
        inner join origin as o on o.id = w.origin_id;
    end loop;
end $$;


-- Searches ----------------------------------------------------------------------------------------------------------

create function _promscale.start_unix_nano(start_time timestamptz, start_ns smallint) returns numeric
language sql stable strict parallel safe
return (extract(epoch from start_time) * 1000000)::bigint * 1000::numeric + start_ns;

create or replace view ps_trace.jaeger_span as
select
    s.trace_id::uuid as trace_id,
    s.span_id,
    s.parent_span_id,
    s.start_time,
    _promscale.start_unix_nano(s.start_time, s.start_ns) as start_unix_nano,
    _promscale.start_unix_nano(s.start_time, s.start_ns) + round((s.duration_ms * 1000000)::numeric) as end_unix_nano,
    s.duration_ms,
    s.service_name,
    s.span_name,
    s.status_code,
    s.status_message,
    s.origin_id,
    s.tag_set_id,
    s.own_tags,
    s.events,
    s.links
from _promscale.readable_span as s;


-- Summaries ---------------------------------------------------------------------------------------------------------

create or replace function _promscale.calls_by_operation(starts timestamptz, ends timestamptz)
returns table (
    operation_id bigint, parent_operation_id bigint, trace_id uuid, parent_span_id bigint,
    calls bigint, errors bigint, total_ms double precision, parents_from timestamptz, parents_until timestamptz
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan set enable_indexscan = off
as $$
begin
    -- Most parents start in the same time: one hash join finds them.
    return query
    with same_time as materialized (
        select
            s.origin_id,
            p.origin_id as parent_origin_id,
            case when p.origin_id is null then s.trace_id end as trace_id,
            case when p.origin_id is null then s.parent_span_id end as parent_span_id,
            count(*) as calls,
            count(*) filter (where s.status_code = 'error') as errors,
            sum(s.duration_ms) as total_ms,
            min(p.start_time) as parents_from,
            max(p.start_time) as parents_until
        from _promscale.span as s
        left join _promscale.span as p
            on p.trace_id = s.trace_id and p.span_id = s.parent_span_id
            and p.start_time >= starts and p.start_time < ends
        where s.start_time >= starts and s.start_time < ends and s.parent_span_id is not null
        group by 1, 2, 3, 4
    ), other_parents as materialized (
        select p.*
        from _promscale.spans_of_traces(
            array(select distinct m.trace_id from same_time as m where m.parent_origin_id is null), '-infinity', 'infinity'
        ) as p
    ), calls as (
        select * from same_time as m where m.parent_origin_id is not null
        union all
        select
            m.origin_id,
            p.origin_id,
            case when p.origin_id is null then m.trace_id end,
            case when p.origin_id is null then m.parent_span_id end,
            m.calls, m.errors, m.total_ms, p.start_time, p.start_time
        from same_time as m
        left join other_parents as p on p.trace_id = m.trace_id and p.span_id = m.parent_span_id
        where m.parent_origin_id is null
    )
    select
        child.operation_id, parent.operation_id, c.trace_id, c.parent_span_id,
        c.calls, c.errors, c.total_ms, c.parents_from, c.parents_until
    from calls as c
    inner join _promscale.origin as child on child.id = c.origin_id
    left join _promscale.origin as parent on parent.id = c.parent_origin_id;
end $$;

-- Whether each transaction that the coordinator has committed is committed on the workers, too. The coordinator commits
-- first (two-phase commit), and a worker's part of a transaction is in doubt until it follows: for milliseconds, or where
-- the worker fails meanwhile, until Citus has recovered it. Spans in doubt are not visible, but their touched_minute is.
create function _promscale.is_settled() returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if not _promscale.is_citus() then
        return true;
    end if;
    -- Writers hold this lock until the workers have committed.
    perform pg_advisory_xact_lock(_promscale.summary_lock());
    return (
        select sum(node::bigint) = 0
        from _promscale.ask_nodes(
            $query$
            select count(*) from pg_prepared_xacts where database = current_database() and gid like 'citus\_%'
            $query$
        ) as node
    );
end $$;

-- Whether parents that were missing when a minute was summarised are stored now.
create function _promscale.has_found_parents(asked timestamptz) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return exists (
        select 1
        from _promscale.missing_parent as missing
        inner join _promscale.span as s on s.trace_id = missing.trace_id and s.span_id = missing.parent_span_id
        where missing.minute = asked
    );
end $$;

-- Computes a minute's summary. Before its transaction asked for anything else, the caller has read which records of
-- touched_minute there are for the minute: these go.
create or replace function _promscale.summarise(asked timestamptz, touched_ids bigint[], attribute_filter bytea)
returns void
language plpgsql set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan set enable_indexscan = off
as $$
declare
    ends constant timestamptz := asked + interval '1 minute';
    summary _promscale.minute;
    remaining_origins bigint[];
    last_hash bigint;
begin
    delete from _promscale.minute as m where m.minute = asked;
    delete from _promscale.operation_minute as m where m.minute = asked;
    delete from _promscale.operation_trace as t where t.minute = asked;
    delete from _promscale.call_minute as m where m.minute = asked;
    delete from _promscale.missing_parent as m where m.minute = asked;
    insert into _promscale.operation_minute select * from _promscale.operations_in(asked);
    -- Most operations have enough traces among the first 64th by the hash; only of the others all traces are compared.
    foreach last_hash in array array[-(2 ^ 63 - 2 ^ 58)::bigint, null] loop
        remaining_origins := array(
            select o.id
            from _promscale.operation_minute as m
            inner join _promscale.origin as o on o.operation_id = m.operation_id
            where m.minute = asked and not exists (
                select 1 from _promscale.operation_trace as t where t.minute = asked and t.operation_id = m.operation_id
            )
        );
        exit when remaining_origins = '{}';
        insert into _promscale.operation_trace (minute, operation_id, trace_ids)
        select asked, t.operation_id, array_agg(t.trace_id order by t.row_number)
        from (
            select
                o.operation_id, s.trace_id,
                row_number() over (partition by o.operation_id order by uuid_hash_extended(s.trace_id, 0), s.trace_id)
            from _promscale.span as s
            inner join _promscale.origin as o on o.id = s.origin_id
            where s.start_time >= asked and s.start_time < ends
                and s.origin_id = any(remaining_origins)
                and (last_hash is null or uuid_hash_extended(s.trace_id, 0) <= last_hash)
            group by o.operation_id, s.trace_id
        ) as t
        where t.row_number <= _promscale.kept_traces()
        group by t.operation_id
        having last_hash is null or count(*) = _promscale.kept_traces();
    end loop;

    select
        sum(s.spans),
        array_agg(distinct s.origin_id),
        array_agg(distinct s.tag_set_id) filter (where s.tag_set_id is not null)
    into summary.spans, summary.origin_ids, summary.tag_set_ids
    from (
        select s.origin_id, s.tag_set_id, count(*) as spans
        from _promscale.span as s
        where s.start_time >= asked and s.start_time < ends
        group by s.origin_id, s.tag_set_id
    ) as s;
    select array_agg(l.duration_ms), array_agg(l.start_time)
    into summary.longest_ms, summary.longest_starts
    from (
        select s.duration_ms, s.start_time
        from _promscale.span as s
        where s.start_time >= asked and s.start_time < ends
        order by s.duration_ms desc
        limit 20
    ) as l;
    with calls as materialized (
        select * from _promscale.calls_by_operation(asked, ends)
    ), missing as (
        insert into _promscale.missing_parent (trace_id, parent_span_id, minute)
        select distinct c.trace_id, c.parent_span_id, asked
        from calls as c
        where c.parent_operation_id is null
    ), call_minutes as (
        insert into _promscale.call_minute
        select
            asked, c.parent_operation_id, c.operation_id,
            sum(c.calls)::bigint, sum(c.errors)::bigint, sum(c.total_ms)
        from calls as c
        where c.parent_operation_id is not null
        group by 2, 3
    )
    select min(c.parents_from), max(c.parents_until) into summary.parents_from, summary.parents_until from calls as c;
    if summary.spans > 0 then
        summary.minute := asked;
        summary.attribute_filter := attribute_filter;
        insert into _promscale.minute select summary.*;
    end if;

    perform pg_advisory_xact_lock(_promscale.summary_lock());
    -- Where a parent has come since, the minute stays touched, and its turn comes again.
    if _promscale.is_settled() and not _promscale.has_found_parents(asked) then
        delete from _promscale.touched_minute where id = any(touched_ids);
    end if;
end $$;


-- Distribution ------------------------------------------------------------------------------------------------------

do $do$
declare
    reader text;
begin
    if not _promscale.is_citus() then
        return;
    end if;
    drop index _promscale.span_default_identity;
    create unique index span_default_identity on _promscale.span_default (start_time, trace_id, span_id, start_ns);
    perform create_distributed_table('_promscale.span', 'trace_id');
    perform create_distributed_table('_promscale.traces_data', 'trace_id', colocate_with => '_promscale.span');
    perform create_reference_table('_promscale.resource');
    perform create_reference_table('_promscale.scope');
    perform create_reference_table('_promscale.origin');
    perform create_reference_table('_promscale.tag_set');

    -- Not in parallel: Citus finds no type for the state of the aggregate on a worker.
    create or replace aggregate ps_trace.percentile_agg(value double precision) (
        sfunc = array_append, stype = double precision[]
    );

    -- Without the semi-join, Citus would bring all spans to the coordinator, for any of them may be linked.
    create or replace view ps_trace.link as
    select
        s.trace_id,
        s.span_id,
        s.trace_state,
        s.parent_span_id,
        s.is_root_span,
        s.service_name,
        s.span_name,
        s.span_kind,
        s.start_time,
        s.end_time,
        s.time_range,
        s.duration_ms,
        s.span_tags,
        s.dropped_tags_count,
        s.event_time,
        s.dropped_events_count,
        s.dropped_link_count,
        s.status_code,
        s.status_message,
        s.instrumentation_lib_name,
        s.instrumentation_lib_version,
        s.instrumentation_lib_schema_url,
        s.resource_tags,
        s.resource_dropped_tags_count,
        s.resource_schema_url,
        linked.trace_id as linked_trace_id,
        linked.span_id as linked_span_id,
        linked.trace_state as linked_trace_state,
        linked.parent_span_id as linked_parent_span_id,
        linked.is_root_span as linked_is_root_span,
        linked.service_name as linked_service_name,
        linked.span_name as linked_span_name,
        linked.span_kind as linked_span_kind,
        linked.start_time as linked_start_time,
        linked.end_time as linked_end_time,
        linked.time_range as linked_time_range,
        linked.duration_ms as linked_duration_ms,
        linked.span_tags as linked_span_tags,
        linked.dropped_tags_count as linked_dropped_tags_count,
        linked.event_time as linked_event_time,
        linked.dropped_events_count as linked_dropped_events_count,
        linked.dropped_link_count as linked_dropped_link_count,
        linked.status_code as linked_status_code,
        linked.status_message as linked_status_message,
        linked.instrumentation_lib_name as linked_inst_lib_name,
        linked.instrumentation_lib_version as linked_inst_lib_version,
        linked.instrumentation_lib_schema_url as linked_inst_lib_schema_url,
        linked.resource_tags as linked_resource_tags,
        linked.resource_dropped_tags_count as linked_resource_dropped_tags_count,
        linked.resource_schema_url as linked_resource_schema_url,
        (l.link -> 'a')::ps_trace.tag_map as link_tags,
        coalesce((l.link ->> 'd')::int, 0) as dropped_link_tags_count
    from _promscale.readable_span as s
    cross join lateral jsonb_array_elements(s.links) as l (link)
    left join (
        select *
        from ps_trace.span
        where trace_id in (
            select (l.link ->> 't')::uuid
            from _promscale.span as linking
            cross join lateral jsonb_array_elements(linking.links) as l (link)
        )
    ) as linked
        on linked.trace_id = (l.link ->> 't')::uuid and linked.span_id = _promscale.span_id_from_hex(l.link ->> 's');

    -- A node's part of a statement runs as the role that asks, which needs the rights that the views' owner has on other
    -- engines, and must be able to log in on the workers.
    if not (select r.rolcanlogin from pg_roles as r where r.rolname = 'prom_reader') then
        alter role prom_reader login;
    end if;
    grant usage on schema _promscale to prom_reader;
    grant select on
        _promscale.span, _promscale.traces_data, _promscale.origin, _promscale.resource, _promscale.scope,
        _promscale.tag_set, _promscale.operation, _promscale.operation_minute, _promscale.call_minute,
        _promscale.touched_minute
    to prom_reader;

    -- The readers' timeout is one of the coordinator, which also ends the parts of a statement on the other nodes. There, a
    -- longer timeout of a session, such as that of an export, would not count.
    alter function _promscale.restore_readers set citus.enable_alter_role_set_propagation = off;
    foreach reader in array array['trace_viewer', 'explorer', 'grafana'] loop
        execute format('alter role %I reset all', reader); -- on all nodes
    end loop;
    perform _promscale.restore_readers();
end $do$;


-- Rights ------------------------------------------------------------------------------------------------------------

revoke execute on function
    _promscale.create_table_like, _promscale.ask_nodes, _promscale.bytes_of_node, _promscale.table_bytes, _promscale.spans_in,
    _promscale.spans_of_traces, _promscale.first_traces, _promscale.has_found_parents,
    _promscale.is_settled
from public;
grant execute on function
    _promscale.create_table_like, _promscale.ask_nodes, _promscale.bytes_of_node, _promscale.table_bytes, _promscale.spans_in,
    _promscale.spans_of_traces, _promscale.first_traces, _promscale.has_found_parents,
    _promscale.is_settled
to prom_writer;
