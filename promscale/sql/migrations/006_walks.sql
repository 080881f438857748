-- What the statements of queries/ share: calls between services, and walks through a sample of traces.

-- Calls from one service to another, by the pairs of spans that OpenTelemetry makes of a call.
create view ps_trace.service_call_minute as
select
    m.minute,
    m.caller_service_name as caller,
    m.callee_service_name as callee,
    sum(m.calls)::bigint as calls,
    sum(m.errors)::bigint as errors,
    sum(m.total_ms) as total_ms
from ps_trace.call_minute as m
where m.caller_service_name <> m.callee_service_name
    and m.caller_span_kind in ('client', 'producer', 'unspecified')
    and m.callee_span_kind in ('server', 'consumer', 'unspecified')
group by m.minute, m.caller_service_name, m.callee_service_name;


-- Walks -------------------------------------------------------------------------------------------------------------
-- The planner cannot know how few rows these functions read. Where jit is on, it would compile their statements for
-- longer than they run.

-- At most 500 traces with calls of an operation in a time. Each minute has as many of them as its share of the calls is, or
-- all where there are few: those that come first by the hash of their ids, which summarised minutes have kept.
-- starts, ends: the minutes whose calls they were chosen for.
create function _promscale.sample_traces(time_from timestamptz, time_to timestamptz, service text, operation text)
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
        cross join lateral (
            select c.trace_id as id
            from _promscale.span as c
            where c.start_time >= s.starts and c.start_time < s.ends
                and c.start_time >= time_from and c.start_time < time_to -- lets the planner leave out partitions
                and c.origin_id = any(origins)
            group by c.trace_id
            order by uuid_hash_extended(c.trace_id, 0), c.trace_id
            limit s.traces::bigint
        ) as t
        where s.traces > 0 and s.minute not in (select k.minute from kept as k)
    )
    select f.id, min(f.starts), max(f.ends)
    from found as f
    group by f.id
    order by uuid_hash_extended(f.id, 0), f.id
    limit sample_size;
end $$;

create function ps_trace.sample_traces(time_from timestamptz, time_to timestamptz, service text, operation text)
returns setof ps_trace.trace_id
language sql stable rows 500
begin atomic
    select s.trace_id::ps_trace.trace_id from _promscale.sample_traces(time_from, time_to, service, operation) as s;
end;

-- The calls of an operation in a sample of traces, and all spans above or below them. A union keeps each span once: a
-- parent that several calls share is not counted again, and where bad data goes round in a circle, the walk ends.
-- The spans of a usual sample of one hour, some 70,000, fit into that work_mem: on disk they would take half as long again.
create function _promscale.walk_sample(
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
            select s.*
            from unnest(traces) as t (id)
            cross join lateral (
                select
                    s.trace_id, s.span_id, s.parent_span_id, s.origin_id, s.start_time, s.duration_ms, s.status_code
                from _promscale.span as s
                where s.trace_id = t.id and s.start_time >= read_from and s.start_time < read_to
                offset 0 -- keeps the planner from reading all spans of the time for a join
            ) as s
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
        )
        select
            w.trace_id::ps_trace.trace_id, w.span_id, w.parent_span_id, o.service_name, o.span_name,
            w.start_time, w.duration_ms, w.status_code
        from walked as w
        inner join _promscale.origin as o on o.id = w.origin_id;
    end loop;
end $$;

create function ps_trace.upstream_sample(time_from timestamptz, time_to timestamptz, service text, operation text)
returns table (
    trace_id ps_trace.trace_id, span_id bigint, parent_span_id bigint, service_name text, span_name text,
    start_time timestamptz, duration_ms double precision, status_code ps_trace.status_code
)
language sql stable
begin atomic
    select * from _promscale.walk_sample(time_from, time_to, service, operation, upwards => true);
end;

create function ps_trace.downstream_sample(time_from timestamptz, time_to timestamptz, service text, operation text)
returns table (
    trace_id ps_trace.trace_id, span_id bigint, parent_span_id bigint, service_name text, span_name text,
    start_time timestamptz, duration_ms double precision, status_code ps_trace.status_code
)
language sql stable
begin atomic
    select * from _promscale.walk_sample(time_from, time_to, service, operation, upwards => false);
end;

grant select on ps_trace.service_call_minute to prom_reader, prom_writer;
