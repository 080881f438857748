-- The trace store's first schema. Users' interface: schema ps_trace. Everything in _ps_trace is private to promscale,
-- which has made that schema already, to keep count of these migrations.

create schema ps_trace;

do $$
declare
    role_name text;
begin
    -- Who only looks logs in as trace_viewer, which has no password: to allow more than trust, give it one.
    foreach role_name in array array['prom_reader', 'prom_writer', 'trace_viewer'] loop
        begin
            execute format('create role %I', role_name);
        exception when duplicate_object then
            continue; -- roles belong to the cluster: another database made it first
        end;
        if role_name = 'trace_viewer' then
            alter role trace_viewer with login;
            alter role trace_viewer set default_transaction_read_only = on;
            alter role trace_viewer set statement_timeout = '30s';
            grant prom_reader to trace_viewer;
        end if;
    end loop;
    execute format('alter database %I set search_path = "$user", public, ps_trace', current_database());
end $$;

create domain ps_trace.trace_id as uuid check (value <> '00000000-0000-0000-0000-000000000000');
create domain ps_trace.tag_map as jsonb;
create type ps_trace.span_kind as enum ('unspecified', 'internal', 'server', 'client', 'producer', 'consumer');
create type ps_trace.status_code as enum ('unset', 'ok', 'error');


-- Tables ------------------------------------------------------------------------------------------------------------

-- The store's one row. The generation changes when rows are removed from the tables below that promscale remembers
-- having written, and so tells it to write them again.
create table _ps_trace.store (
    only_row boolean primary key default true check (only_row),
    generation uuid not null default gen_random_uuid(),
    trace_retention_period interval not null default interval '30 days' check (trace_retention_period > interval '0')
);
insert into _ps_trace.store default values;

-- What many spans share is kept once. An id is a hash of the content, so that it is known without asking.
create table _ps_trace.resource (
    id bigint primary key,
    tags ps_trace.tag_map not null,
    dropped_tags_count int not null,
    schema_url text
);
create table _ps_trace.scope (
    id bigint primary key,
    name text,
    version text,
    schema_url text,
    tags ps_trace.tag_map not null
);
create table _ps_trace.operation (
    id bigint primary key,
    service_name text not null,
    span_kind ps_trace.span_kind not null,
    span_name text not null
);

-- One row a span: what SQL asks about. Fixed-width columns first, to save padding.
create table _ps_trace.span (
    trace_id ps_trace.trace_id not null,
    span_id bigint not null,
    start_time timestamptz not null,
    end_time timestamptz not null,
    duration_ms double precision not null,
    parent_span_id bigint,
    resource_id bigint not null,
    scope_id bigint not null,
    span_kind ps_trace.span_kind not null,
    status_code ps_trace.status_code not null,
    dropped_tags_count int,
    dropped_events_count int,
    dropped_link_count int,
    start_ns smallint not null, -- what start_time's microseconds leave of the start
    service_name text not null, -- these two of 1,000 bytes at the most, because an index includes them
    span_name text not null,
    trace_state text,
    status_message text,
    span_tags ps_trace.tag_map not null,
    events jsonb, -- [{"t": microseconds since 1970, "n": name, "a": {attributes}, "d": dropped attributes}]
    links jsonb   -- [{"t": trace id, "s": span id, both hex, "a": {attributes}, "d": dropped attributes}]
);
-- A span's identity, so that what is sent twice is stored once. Time comes first: spans arrive about in its order, so
-- that the index grows at one end, and it serves searches by time. It includes what most statistics are about: reading
-- a third of the bytes, they are three times as fast.
create unique index span_identity on _ps_trace.span (start_time, trace_id, span_id, start_ns)
    include (parent_span_id, duration_ms, span_kind, status_code, service_name, span_name);
create index span_trace_id on _ps_trace.span (trace_id);
create index span_root_start_time on _ps_trace.span (start_time) where parent_span_id is null;

-- The same spans as they came, bit by bit: OTLP TracesData, zstd-compressed, each row of one trace only.
create table _ps_trace.traces_data (
    trace_id ps_trace.trace_id not null,
    last_start_time timestamptz not null, -- of the spans in it: retention keeps the row until the last is out of date
    data bytea not null
);
alter table _ps_trace.traces_data alter column data set storage external;
create index traces_data_trace_id on _ps_trace.traces_data (trace_id);
create index traces_data_last_start_time on _ps_trace.traces_data using brin (last_start_time);

-- With TimescaleDB the large tables are in chunks by time: old ones are dropped instead of deleting rows, and in the
-- community edition, whose licence allows it, those that no longer grow are compressed.
-- The statistics say how many minutes there are, which the planner cannot know: without them, a count by minute sorts
-- all spans. That a trace has some 50 spans, it cannot know of all chunks together: it takes traces for several times as
-- large as they are, and reads all spans to find those of a few traces.
do $$
begin
    if current_setting('shared_preload_libraries') not like '%timescaledb%' then
        create statistics _ps_trace.span_minute on
            (date_bin('1 minute', start_time, timestamptz '2000-01-03 00:00:00+00')) from _ps_trace.span;
        return;
    end if;
    create extension if not exists timescaledb;
    perform create_hypertable('_ps_trace.span', 'start_time', chunk_time_interval => interval '2 hours');
    perform create_hypertable('_ps_trace.traces_data', 'last_start_time', chunk_time_interval => interval '2 hours');
    create statistics _ps_trace.span_minute on (public.time_bucket('1 minute', start_time)) from _ps_trace.span;
    alter table _ps_trace.span alter column trace_id set (n_distinct_inherited = -0.02);
    if current_setting('timescaledb.license') = 'timescale' then
        alter table _ps_trace.span set (
            timescaledb.compress,
            timescaledb.compress_segmentby = 'service_name',
            timescaledb.compress_orderby = 'start_time'
        );
        perform add_compression_policy('_ps_trace.span', compress_after => interval '2 hours');
    end if;
end $$;


-- Views -------------------------------------------------------------------------------------------------------------

create function _ps_trace.from_unix_micros(micros bigint) returns timestamptz
    language sql immutable strict parallel safe
    return timestamptz 'epoch' + micros * interval '1 microsecond';

create view ps_trace.span as
select
    s.trace_id,
    s.span_id,
    s.trace_state,
    s.parent_span_id,
    s.parent_span_id is null as is_root_span,
    s.service_name,
    s.span_name,
    s.span_kind,
    s.start_time,
    s.end_time,
    -- OTLP lets a span end before it starts; a range does not.
    tstzrange(s.start_time, greatest(s.start_time, s.end_time), '[]') as time_range,
    s.duration_ms,
    s.span_tags,
    coalesce(s.dropped_tags_count, 0) as dropped_tags_count,
    (
        select
            tstzrange(
                _ps_trace.from_unix_micros(min((e ->> 't')::bigint)),
                _ps_trace.from_unix_micros(max((e ->> 't')::bigint)),
                '[]'
            )
        from jsonb_array_elements(s.events) as e
        having count(*) > 0
    ) as event_time,
    coalesce(s.dropped_events_count, 0) as dropped_events_count,
    coalesce(s.dropped_link_count, 0) as dropped_link_count,
    s.status_code,
    s.status_message,
    -- Not by outer joins: these would keep the planner from index-only scans, also where their columns are not used.
    (select i.name from _ps_trace.scope as i where i.id = s.scope_id) as instrumentation_lib_name,
    (select i.version from _ps_trace.scope as i where i.id = s.scope_id) as instrumentation_lib_version,
    (select i.schema_url from _ps_trace.scope as i where i.id = s.scope_id) as instrumentation_lib_schema_url,
    (select r.tags from _ps_trace.resource as r where r.id = s.resource_id) as resource_tags,
    (
        select coalesce(r.dropped_tags_count, 0) from _ps_trace.resource as r where r.id = s.resource_id
    ) as resource_dropped_tags_count,
    (select r.schema_url from _ps_trace.resource as r where r.id = s.resource_id) as resource_schema_url
from _ps_trace.span as s;

create view ps_trace.event as
select
    s.trace_id,
    s.span_id,
    _ps_trace.from_unix_micros((e ->> 't')::bigint) as time,
    e ->> 'n' as event_name,
    (e -> 'a')::ps_trace.tag_map as event_tags,
    coalesce((e ->> 'd')::int, 0) as dropped_tags_count,
    s.trace_state,
    s.service_name,
    s.span_name,
    s.span_kind,
    s.start_time as span_start_time,
    s.end_time as span_end_time,
    tstzrange(s.start_time, greatest(s.start_time, s.end_time), '[]') as span_time_range,
    s.duration_ms as span_duration_ms,
    s.span_tags,
    coalesce(s.dropped_tags_count, 0) as dropped_span_tags_count,
    r.tags as resource_tags,
    coalesce(r.dropped_tags_count, 0) as resource_dropped_tags_count,
    s.status_code,
    s.status_message
from _ps_trace.span as s
cross join lateral jsonb_array_elements(s.events) as e
left join _ps_trace.resource as r on r.id = s.resource_id;

create function _ps_trace.span_id_from_hex(hex text) returns bigint
    language sql immutable strict parallel safe
    return ('x' || hex)::bit(64)::bigint;

create view ps_trace.link as
select
    s.*,
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
from _ps_trace.span as linking
cross join lateral jsonb_array_elements(linking.links) as l (link)
inner join ps_trace.span as s
    on s.trace_id = linking.trace_id and s.span_id = linking.span_id and s.start_time = linking.start_time
left join ps_trace.span as linked
    on linked.trace_id = (l.link ->> 't')::uuid and linked.span_id = _ps_trace.span_id_from_hex(l.link ->> 's');

create view ps_trace.operation as
select id, service_name, span_kind, span_name
from _ps_trace.operation;

-- What Jaeger's searches need besides.
create view ps_trace.jaeger_traces_data as
select trace_id, data
from _ps_trace.traces_data;

create view ps_trace.jaeger_span as
select
    trace_id,
    span_id,
    parent_span_id,
    start_time,
    n.start_unix_nano,
    n.start_unix_nano + round((duration_ms * 1000000)::numeric) as end_unix_nano,
    duration_ms,
    service_name,
    span_name,
    span_kind,
    status_code,
    status_message,
    resource_id,
    scope_id,
    span_tags,
    events,
    links
from _ps_trace.span
cross join lateral (
    select (extract(epoch from start_time) * 1000000)::bigint * 1000::numeric + start_ns as start_unix_nano
) as n;

create view ps_trace.jaeger_resource as
select id, tags
from _ps_trace.resource;

create view ps_trace.jaeger_scope as
select id, name, version, tags
from _ps_trace.scope;


-- Functions ---------------------------------------------------------------------------------------------------------
-- A span that is its own ancestor (bad data) is visited once: a path never holds an id twice.

create function ps_trace.trace_tree(trace_id ps_trace.trace_id)
returns table (trace_id ps_trace.trace_id, parent_span_id bigint, span_id bigint, lvl int, path bigint[])
language sql stable as $$
    with recursive tree as (
        select s.parent_span_id, s.span_id, 1 as lvl, array[s.span_id] as path
        from ps_trace.span as s
        where s.trace_id = $1 and s.parent_span_id is null
        union all
        select s.parent_span_id, s.span_id, t.lvl + 1, t.path || s.span_id
        from tree as t
        inner join ps_trace.span as s on s.trace_id = $1 and s.parent_span_id = t.span_id
        where s.span_id <> all (t.path)
    )
    select $1, t.parent_span_id, t.span_id, t.lvl, t.path
    from tree as t
$$;

create function ps_trace.upstream_spans(trace_id ps_trace.trace_id, span_id bigint, max_dist int default null)
returns table (trace_id ps_trace.trace_id, parent_span_id bigint, span_id bigint, dist int, path bigint[])
language sql stable as $$
    with recursive up as (
        select s.parent_span_id, s.span_id, 0 as dist, array[s.span_id] as path
        from ps_trace.span as s
        where s.trace_id = $1 and s.span_id = $2
        union all
        select s.parent_span_id, s.span_id, u.dist + 1, s.span_id || u.path
        from up as u
        inner join ps_trace.span as s on s.trace_id = $1 and s.span_id = u.parent_span_id
        where s.span_id <> all (u.path) and ($3 is null or u.dist < $3)
    )
    select $1, u.parent_span_id, u.span_id, u.dist, u.path
    from up as u
$$;

create function ps_trace.downstream_spans(trace_id ps_trace.trace_id, span_id bigint, max_dist int default null)
returns table (trace_id ps_trace.trace_id, parent_span_id bigint, span_id bigint, dist int, path bigint[])
language sql stable as $$
    with recursive down as (
        select s.parent_span_id, s.span_id, 0 as dist, array[s.span_id] as path
        from ps_trace.span as s
        where s.trace_id = $1 and s.span_id = $2
        union all
        select s.parent_span_id, s.span_id, d.dist + 1, d.path || s.span_id
        from down as d
        inner join ps_trace.span as s on s.trace_id = $1 and s.parent_span_id = d.span_id
        where s.span_id <> all (d.path) and ($3 is null or d.dist < $3)
    )
    select $1, d.parent_span_id, d.span_id, d.dist, d.path
    from down as d
$$;

create function ps_trace.sibling_spans(trace_id ps_trace.trace_id, span_id bigint)
returns table (trace_id ps_trace.trace_id, parent_span_id bigint, span_id bigint)
language sql stable as $$
    select s.trace_id, s.parent_span_id, s.span_id
    from ps_trace.span as s
    where s.trace_id = $1
        and exists (
            select
            from ps_trace.span as self
            where self.trace_id = $1 and self.span_id = $2
                and self.parent_span_id is not distinct from s.parent_span_id
        )
$$;

create function ps_trace.span_tree(trace_id ps_trace.trace_id, span_id bigint, max_dist int default null)
returns table (
    trace_id ps_trace.trace_id, parent_span_id bigint, span_id bigint,
    dist int, is_upstream boolean, is_downstream boolean, path bigint[]
)
language sql stable as $$
    select u.trace_id, u.parent_span_id, u.span_id, u.dist, u.dist > 0, false, u.path
    from ps_trace.upstream_spans($1, $2, $3) as u
    union all
    select d.trace_id, d.parent_span_id, d.span_id, d.dist, false, true, d.path
    from ps_trace.downstream_spans($1, $2, $3) as d
    where d.dist > 0
$$;

-- Calls whose callee started in the given time, end excluded, by operation.
create function ps_trace.operation_calls(start_min timestamptz, start_max timestamptz)
returns table (parent_operation_id bigint, child_operation_id bigint, cnt bigint)
language sql stable as $$
    with calls as (
        select
            parent.service_name as parent_service, parent.span_kind as parent_kind, parent.span_name as parent_name,
            child.service_name as child_service, child.span_kind as child_kind, child.span_name as child_name,
            count(*) as cnt
        from ps_trace.span as child
        inner join ps_trace.span as parent
            on parent.trace_id = child.trace_id and parent.span_id = child.parent_span_id
        where child.start_time >= $1 and child.start_time < $2
        group by 1, 2, 3, 4, 5, 6
    )
    select p.id, c.id, calls.cnt
    from calls
    inner join ps_trace.operation as p
        on (p.service_name, p.span_kind, p.span_name) = (parent_service, parent_kind, parent_name)
    inner join ps_trace.operation as c
        on (c.service_name, c.span_kind, c.span_name) = (child_service, child_kind, child_name)
$$;

create function ps_trace.delete_all_traces() returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    truncate _ps_trace.operation, _ps_trace.resource, _ps_trace.scope, _ps_trace.span, _ps_trace.traces_data;
    update _ps_trace.store set generation = gen_random_uuid();
$$;

create function ps_trace.get_trace_retention_period() returns interval
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select trace_retention_period from _ps_trace.store
$$;

create function ps_trace.set_trace_retention_period(trace_retention_period interval) returns boolean
language sql security definer set search_path = pg_catalog, pg_temp as $$
    update _ps_trace.store set trace_retention_period = $1 returning true
$$;

-- promscale calls this again and again. What is removed: spans that started before the retention period.
create function _ps_trace.delete_old_traces() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    cutoff constant timestamptz := now() - ps_trace.get_trace_retention_period();
begin
    -- Several promscales may serve one database: one of them does it.
    if pg_try_advisory_xact_lock(hashtext('_ps_trace.delete_old_traces')) then
        if exists (select from pg_extension where extname = 'timescaledb') then
            perform public.drop_chunks('_ps_trace.span', older_than => cutoff);
            perform public.drop_chunks('_ps_trace.traces_data', older_than => cutoff);
        end if;
        delete from _ps_trace.span where start_time < cutoff;
        delete from _ps_trace.traces_data where last_start_time < cutoff;
    end if;
end $$;

-- promscale calls this while a store is filling up. Else its queries would be planned by guesses until autovacuum's first
-- turn, a minute later, and some of these run for minutes.
create function _ps_trace.refresh_statistics() returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    analyze _ps_trace.span;
    analyze _ps_trace.traces_data;
$$;

create function ps_trace.time_bucket(bucket_width interval, ts timestamptz) returns timestamptz
language sql immutable strict parallel safe
return date_bin(bucket_width, ts, timestamptz '2000-01-03 00:00:00+00');

-- Of TimescaleDB's toolkit, what write-ups about traces use; where the toolkit is there, its own come first in the
-- search path. These are not approximate.
create aggregate ps_trace.percentile_agg(value double precision) (
    sfunc = array_append, stype = double precision[], combinefunc = array_cat, parallel = safe
);

create function ps_trace.approx_percentile(percentile double precision, percentile_agg double precision[])
returns double precision
language sql immutable strict parallel safe
return (select percentile_cont(percentile) within group (order by value) from unnest(percentile_agg) as value);


-- Rights ------------------------------------------------------------------------------------------------------------

revoke execute on function ps_trace.delete_all_traces, ps_trace.set_trace_retention_period,
    _ps_trace.delete_old_traces, _ps_trace.refresh_statistics from public;
grant usage on schema ps_trace to prom_reader, prom_writer;
grant select on all tables in schema ps_trace to prom_reader, prom_writer;
grant usage on schema _ps_trace to prom_writer;
grant select, insert on all tables in schema _ps_trace to prom_writer;
grant execute on function ps_trace.delete_all_traces, ps_trace.set_trace_retention_period,
    _ps_trace.delete_old_traces, _ps_trace.refresh_statistics to prom_writer;
