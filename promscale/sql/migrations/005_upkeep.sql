-- What keeps the store bounded: closing and dropping partitions, limits by age and by size, and what can be seen of it.

-- Closing -----------------------------------------------------------------------------------------------------------
-- On plain PostgreSQL a partition is closed in two transactions. The first writes its contents densely into tables
-- beside it (promscale writes the OTLP bytes), the second puts these in its place. Whenever that is interrupted, the
-- partition is as it was, and the next turn begins anew.

-- The tables with native partitions.
create function _promscale.partitioned_tables() returns text[]
language sql stable set search_path = pg_catalog, pg_temp
return case when _promscale.is_timescaledb() then array['traces_data'] else array['span', 'traces_data'] end;

-- Makes the tables beside a partition that take its contents. The constraints spare the scan that would look, under an
-- exclusive lock, whether all rows are of the right time.
create function _promscale.begin_closing(partition_name text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    times constant _promscale.partition := (select p from _promscale.partition as p where p.name = partition_name);
    kind text;
begin
    foreach kind in array _promscale.partitioned_tables() loop
        execute format('drop table if exists _promscale.%I', 'closing_' || kind || '_' || partition_name);
        execute format(
            'create table _promscale.%I (like _promscale.%I including storage including constraints,'
            ' constraint times check (%I >= %L and %I < %L))',
            'closing_' || kind || '_' || partition_name, kind,
            case kind when 'span' then 'start_time' else 'last_start_time' end, times.starts_at,
            case kind when 'span' then 'start_time' else 'last_start_time' end, times.ends_at
        );
    end loop;
end $$;

-- Writes a partition's spans densely into the table closing_span_<name>. Where at least nine in ten of an origin's spans
-- have the same value of an attribute, that moves into a tag set, for those spans that have all of the set. Arrays and
-- objects stay: @> finds a part of them, too. Returns how many spans there are.
create function _promscale.copy_spans_densely(partition_name text) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    source constant text := format('_promscale.%I', 'span_' || partition_name);
    target constant text := format('_promscale.%I', 'closing_span_' || partition_name);
    sample_percent double precision;
    spans bigint;
begin
    if _promscale.is_timescaledb() then
        perform _promscale.compress_chunks(partition_name);
        return 0;
    end if;
    -- About 20,000 rows tell what is frequent; a page has some twenty.
    select least(100, 100 * 1000 / greatest(pg_relation_size(source) / 8192, 1)) into sample_percent;
    execute format(
        $statement$
        create temporary table chosen on commit drop as
        with sample as (
            select origin_id, span_tags from %s tablesample system (%s)
        ), origins as (
            select origin_id, count(*) as spans from sample group by origin_id having count(*) >= 10
        ), frequent as (
            select s.origin_id, tag.key, tag.value
            from sample as s
            cross join lateral jsonb_each(s.span_tags) as tag
            inner join origins as o on o.origin_id = s.origin_id
            where jsonb_typeof(tag.value) not in ('array', 'object')
            group by s.origin_id, tag.key, tag.value, o.spans
            having count(*) >= 0.9 * o.spans
        )
        select
            origin_id, jsonb_object_agg(key, value) as tags, array_agg(key) as keys, null::int as tag_set_id
        from frequent
        group by origin_id
        $statement$,
        source, sample_percent
    );
    insert into _promscale.tag_set (origin_id, tags)
    select c.origin_id, c.tags
    from pg_temp.chosen as c
    where not exists (select from _promscale.tag_set as t where t.origin_id = c.origin_id and t.tags = c.tags);
    update pg_temp.chosen as c
    set tag_set_id = t.id
    from _promscale.tag_set as t
    where t.origin_id = c.origin_id and t.tags = c.tags;
    update _promscale.partition as p
    set tag_set_ids = (select array_agg(c.tag_set_id) from pg_temp.chosen as c)
    where p.name = partition_name;
    execute format(
        $statement$
        insert into %s
        select
            s.trace_id, s.span_id, s.start_time, s.duration_ms, s.parent_span_id, s.origin_id, c.tag_set_id,
            s.status_code, s.start_ns, s.dropped_tags_count, s.dropped_events_count, s.dropped_link_count,
            s.trace_state, s.status_message,
            case when c.tag_set_id is null then s.span_tags else nullif(s.span_tags - c.keys, '{}') end,
            s.events, s.links
        from %s as s
        left join pg_temp.chosen as c on c.origin_id = s.origin_id and s.span_tags @> c.tags
        $statement$,
        target, source
    );
    get diagnostics spans = row_count;
    -- Full pages, because late spans are rare.
    execute format('create index on %s (trace_id) with (fillfactor = 100)', target);
    execute format('create index on %s (parent_span_id) with (fillfactor = 100)', target);
    execute format('create index on %s (start_time) with (fillfactor = 100)', target);
    execute format(
        'create index on %s (start_time) include (duration_ms, origin_id) with (fillfactor = 100)'
        ' where parent_span_id is null',
        target
    );
    execute format('analyze %s', target);
    return spans;
end $$;

-- With TimescaleDB's community edition, moves a partition's spans into the columnstore.
create function _promscale.compress_chunks(partition_name text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if current_setting('timescaledb.license') = 'timescale' then
        perform public.compress_chunk(c)
        from _promscale.partition as p
        cross join lateral public.show_chunks(
            '_promscale.span', older_than => p.ends_at, newer_than => p.starts_at
        ) as c
        where p.name = partition_name;
    end if;
end $$;

-- Puts the closing tables in a partition's place, unless it has other than these numbers of rows, because some have come
-- since they were read. Returns whether the partition is closed.
create function _promscale.finish_closing(partition_name text, spans bigint, traces_data bigint, dictionary_id bigint)
returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    times _promscale.partition;
    kind text;
    rows bigint;
begin
    perform pg_advisory_xact_lock(hashtext('_promscale.partition'));
    select * into times from _promscale.partition as p where p.name = partition_name;
    -- Writers lock the tables in this order, too.
    lock table only _promscale.span, only _promscale.traces_data in access exclusive mode;
    foreach kind in array _promscale.partitioned_tables() loop
        execute format('select count(*) from _promscale.%I', kind || '_' || partition_name) into rows;
        if rows <> (case kind when 'span' then spans else traces_data end) then
            return false;
        end if;
    end loop;
    foreach kind in array _promscale.partitioned_tables() loop
        execute format('drop table _promscale.%I', kind || '_' || partition_name);
        execute format(
            'alter table _promscale.%I rename to %I',
            'closing_' || kind || '_' || partition_name, kind || '_' || partition_name
        );
        execute format(
            'alter table _promscale.%I attach partition _promscale.%I for values from (%L) to (%L)',
            kind, kind || '_' || partition_name, times.starts_at, times.ends_at
        );
        execute format('alter table _promscale.%I drop constraint times', kind || '_' || partition_name);
    end loop;
    update _promscale.partition as p
    set closed_at = now(), dictionary_id = finish_closing.dictionary_id
    where p.name = partition_name;
    update _promscale.store as s set closed_until = greatest(s.closed_until, times.ends_at);
    return true;
end $$;

-- Ends a partition that has grown large now, and begins a new one for the rest of its time.
create function _promscale.split_partition(partition_name text, cut timestamptz) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    split _promscale.partition;
    kind text;
    later constant text := to_char(cut at time zone 'UTC', 'YYYYMMDD"T"HH24MISS');
begin
    perform pg_advisory_xact_lock(hashtext('_promscale.partition'));
    select * into split from _promscale.partition as p
    where p.name = partition_name and p.starts_at < cut and cut < p.ends_at;
    if not found or _promscale.is_timescaledb() then
        return;
    end if;
    lock table only _promscale.span, _promscale.traces_data in access exclusive mode;
    update _promscale.partition set ends_at = cut where name = partition_name;
    insert into _promscale.partition (starts_at, ends_at, name) values (cut, split.ends_at, later);
    foreach kind in array _promscale.partitioned_tables() loop
        execute format(
            'alter table _promscale.%I detach partition _promscale.%I', kind, kind || '_' || partition_name
        );
        perform _promscale.create_partition_table(kind, later, cut, split.ends_at, kind || '_' || partition_name);
        execute format(
            'alter table _promscale.%I attach partition _promscale.%I for values from (%L) to (%L)',
            kind, kind || '_' || partition_name, split.starts_at, cut
        );
    end loop;
end $$;


-- Limits ------------------------------------------------------------------------------------------------------------

-- Removes from the default partition what is older than the retention period. It has spans only whose time is out of
-- the ordinary, so that deleting them row by row is cheap. Returns whether there were any.
create function _promscale.delete_old_spans() returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    cutoff constant timestamptz := now() - (select s.trace_retention_period from _promscale.store as s);
    starts timestamptz;
    ends timestamptz;
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
    with deleted as (
        delete from _promscale.span_default as s where s.start_time < cutoff returning s.start_time
    ), minutes as (
        select distinct _promscale.minute_of(d.start_time) as minute from deleted as d
    )
    insert into _promscale.touched_minute (minute)
    select d.minute from minutes as d
    union
    select m.minute
    from _promscale.minute as m
    inner join minutes as d on m.parents_from < d.minute + interval '1 minute' and m.parents_until >= d.minute;
    return found;
end $$;

-- Removes what no stored span refers to any more. It changes the store's generation, so that writers write again what
-- they need of it.
create function _promscale.delete_unused_origins() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    -- In the order in which writers lock them.
    lock table _promscale.resource, _promscale.scope, _promscale.operation, _promscale.origin in share row exclusive mode;
    perform pg_advisory_xact_lock(_promscale.summary_lock());
    create temporary table used on commit drop as
    select distinct unnest(m.origin_ids) as id
    from _promscale.minute as m
    where not exists (select from _promscale.touched_minute as t where t.minute = m.minute)
    union
    select distinct s.origin_id
    from (select distinct t.minute from _promscale.touched_minute as t) as t
    inner join _promscale.span as s on s.start_time >= t.minute and s.start_time < t.minute + interval '1 minute';
    delete from _promscale.origin as o where not exists (select from pg_temp.used as u where u.id = o.id);
    if found then
        delete from _promscale.operation as p
        where not exists (select from _promscale.origin as o where o.operation_id = p.id);
        delete from _promscale.resource as r
        where not exists (select from _promscale.origin as o where o.resource_id = r.id);
        delete from _promscale.scope as c
        where not exists (select from _promscale.origin as o where o.scope_id = c.id);
        update _promscale.store set generation = gen_random_uuid();
    end if;
    delete from _promscale.tag_set as t
    where not exists (select from _promscale.partition as p where t.id = any(p.tag_set_ids));
end $$;

create function ps_trace.get_trace_disk_budget() returns bigint
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select coalesce(disk_budget, default_disk_budget) from _promscale.store
$$;

create function ps_trace.set_trace_disk_budget(disk_budget bigint) returns boolean
language sql security definer set search_path = pg_catalog, pg_temp as $$
    update _promscale.store set disk_budget = $1 returning true
$$;

create or replace function ps_trace.get_trace_retention_period() returns interval
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select trace_retention_period from _promscale.store
$$;

create or replace function ps_trace.set_trace_retention_period(trace_retention_period interval) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update _promscale.store set trace_retention_period = $1;
    if _promscale.is_timescaledb() then
        perform public.set_chunk_time_interval('_promscale.span', _promscale.partition_length());
    end if;
    return true;
end $$;

create or replace function ps_trace.delete_all_traces() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    starts timestamptz;
begin
    -- In the order in which writers lock them. Readers may go on until the spans are locked: a reader has these tables
    -- and the spans in any order.
    lock table _promscale.resource, _promscale.scope, _promscale.operation, _promscale.origin in share row exclusive mode;
    perform pg_advisory_xact_lock(hashtext('_promscale.partition'));
    for starts in select p.starts_at from _promscale.partition as p loop
        perform _promscale.drop_partition(starts);
    end loop;
    truncate _promscale.span, _promscale.traces_data;
    delete from _promscale.resource;
    delete from _promscale.scope;
    delete from _promscale.operation;
    delete from _promscale.origin;
    delete from _promscale.tag_set;
    delete from _promscale.touched_minute;
    delete from _promscale.minute;
    delete from _promscale.operation_minute;
    delete from _promscale.operation_trace;
    delete from _promscale.call_minute;
    delete from _promscale.missing_parent;
    update _promscale.store set generation = gen_random_uuid(), closed_until = '-infinity';
end $$;


-- Bytes -------------------------------------------------------------------------------------------------------------

-- Bytes of each partition's spans; the default partition has no times.
create function _promscale.span_bytes() returns table (starts_at timestamptz, row_bytes bigint, index_bytes bigint)
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
        return query
        select p.starts_at, pg_table_size(c.oid), pg_indexes_size(c.oid)
        from pg_class as c
        left join _promscale.partition as p on c.relname = 'span_' || p.name
        where c.relnamespace = '_promscale'::regnamespace
            and c.relkind = 'r'
            and (p.name is not null or c.relname = 'span_default');
    end if;
end $$;

create function _promscale.lossless_bytes() returns table (starts_at timestamptz, bytes bigint)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select p.starts_at, pg_total_relation_size(c.oid)
    from pg_class as c
    left join _promscale.partition as p on c.relname = 'traces_data_' || p.name
    where c.relnamespace = '_promscale'::regnamespace
        and c.relkind = 'r'
        and (p.name is not null or c.relname = 'traces_data_default')
$$;

-- Spans that start in this time, from the summaries, and of minutes that have none from the spans.
create function _promscale.span_count(starts timestamptz, ends timestamptz) returns bigint
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select (
        select coalesce(sum(m.spans), 0)
        from _promscale.minute as m
        where m.minute >= $1 and m.minute < $2
            and not exists (select from _promscale.touched_minute as t where t.minute = m.minute)
    )::bigint + (
        select coalesce(sum(s.spans), 0)
        from (select distinct t.minute from _promscale.touched_minute as t where t.minute >= $1 and t.minute < $2) as t
        -- Not a join: it could be planned as one that compares each span with each minute.
        cross join lateral (
            select count(*) as spans
            from _promscale.span as s
            where s.start_time >= t.minute and s.start_time < t.minute + interval '1 minute'
        ) as s
    )::bigint
$$;

-- A row for each partition, the oldest first; one without times is for spans of any other age.
create view ps_trace.disk_usage as
select
    l.starts_at,
    p.ends_at,
    p.closed_at,
    case
        when l.starts_at is not null then _promscale.span_count(l.starts_at, p.ends_at)
        else (
            _promscale.span_count('-infinity', 'infinity')
            - coalesce((select sum(_promscale.span_count(q.starts_at, q.ends_at)) from _promscale.partition as q), 0)
        )::bigint
    end as spans,
    -- TimescaleDB has no chunk of a time without spans.
    coalesce(b.row_bytes, 0) as row_bytes,
    coalesce(b.index_bytes, 0) as index_bytes,
    l.bytes as lossless_bytes,
    coalesce(b.row_bytes, 0) + coalesce(b.index_bytes, 0) + l.bytes as total_bytes
from _promscale.lossless_bytes() as l
left join _promscale.partition as p on p.starts_at = l.starts_at
left join _promscale.span_bytes() as b on b.starts_at is not distinct from l.starts_at
order by l.starts_at;

-- All that the budget counts: the database, and the write-ahead log where its size may be read, as by default only a
-- superuser and members of pg_monitor may.
create function ps_trace.disk_used() returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    used bigint := pg_database_size(current_database());
begin
    if has_function_privilege('pg_ls_waldir()', 'execute') then
        used := used + (select coalesce(sum(size), 0) from pg_ls_waldir());
    end if;
    return used;
end $$;


-- Statistics --------------------------------------------------------------------------------------------------------

-- promscale calls this while a store is filling up. Else its queries would be planned by guesses until autovacuum's first
-- turn, a minute later; and of a partitioned table as a whole, autovacuum collects none.
create function _promscale.refresh_statistics() returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    analyze _promscale.span;
    analyze _promscale.traces_data;
$$;


-- What is left of the first schema -----------------------------------------------------------------------------------

drop function _ps_trace.delete_old_traces, _ps_trace.refresh_statistics, _ps_trace.from_unix_micros,
    _ps_trace.span_id_from_hex;
drop table _ps_trace.store;


-- Rights ------------------------------------------------------------------------------------------------------------

revoke execute on all functions in schema _promscale from public;
grant execute on function _promscale.end_time, _promscale.event_time, _promscale.span_id_from_hex,
    _promscale.operations_in, _promscale.calls_in, _promscale.span_bytes, _promscale.lossless_bytes,
    _promscale.span_count to public;
revoke execute on function ps_trace.set_trace_disk_budget, ps_trace.delete_all_traces,
    ps_trace.set_trace_retention_period from public;
grant usage on schema ps_trace, _ps_trace to prom_reader, prom_writer;
grant select on all tables in schema ps_trace, _ps_trace to prom_reader, prom_writer;
grant usage on schema _promscale to prom_writer;
grant select, insert, update, delete on all tables in schema _promscale to prom_writer;
grant execute on all functions in schema _promscale, ps_trace to prom_writer;
