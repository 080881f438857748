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

-- At most 500 traces with calls of an operation in a time: all of them where all are fast to find. Otherwise there are
-- 500 moments, spread as the calls are by each minute's number of them, and a moment has the trace of the next call.
-- Only the spans between the two are read, through the index of start times.
create function ps_trace.sample_traces(time_from timestamptz, time_to timestamptz, service text, operation text)
returns setof ps_trace.trace_id
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan set jit = off rows 500
as $$
declare
    sample_size constant int := 500;
    -- So many spans are read in less time than it takes to walk through the sample.
    fast_spans constant int := 100000;
    origins constant bigint[] := array(
        select o.id from _promscale.origin as o where o.service_name = service and o.span_name = operation
    );
begin
    return query
    with counts as (
        select
            m.minute,
            sum(m.calls) filter (where m.service_name = service and m.span_name = operation) as calls,
            sum(m.calls) as spans
        from ps_trace.operation_minute as m
        where m.minute > time_from - interval '1 minute' and m.minute < time_to
        group by m.minute
    ), minutes as materialized (
        select
            greatest(c.minute, time_from) as starts,
            least(c.minute + interval '1 minute', time_to) as ends,
            c.calls::double precision as calls,
            (sum(c.calls) over (order by c.minute) - c.calls)::double precision as calls_before
        from counts as c
        where c.calls > 0
    ), total as (
        select sum(c.calls) as calls, sum(c.calls) <= sample_size or sum(c.spans) <= fast_spans as take_all
        from counts as c
        where c.calls > 0
    ), windows as (
        select m.starts, m.ends, null::int as traces
        from minutes as m
        where (select t.take_all from total as t)
        union all
        -- The moments are numbered from 0 to 499. A minute's calls say which of them are in it, and where.
        select moment, least(moment + interval '1 minute', time_to), 1
        from (select t.calls / sample_size as step from total as t where not t.take_all) as every
        cross join minutes as m
        cross join lateral generate_series(
            ceil(m.calls_before / every.step)::int, ceil((m.calls_before + m.calls) / every.step)::int - 1
        ) as number
        cross join lateral (
            select m.starts + (m.ends - m.starts) * ((number * every.step - m.calls_before) / m.calls)
        ) as at (moment)
    ), found as (
        select distinct s.trace_id
        from windows as w
        cross join lateral (
            select s.trace_id
            from _promscale.span as s
            where s.start_time >= w.starts and s.start_time < w.ends
                and s.start_time >= time_from and s.start_time < time_to -- lets the planner leave out partitions
                and s.origin_id = any(origins)
            order by s.start_time
            limit w.traces
        ) as s
    )
    -- The order of a hash is as good as random, and yet always the same.
    select f.trace_id::ps_trace.trace_id
    from found as f
    order by uuid_hash_extended(f.trace_id, 0), f.trace_id
    limit sample_size;
end $$;

-- The calls of an operation in a sample of traces, and all spans above or below them. A union keeps each span once: a
-- parent that several calls share is not counted again, and where bad data goes round in a circle, the walk ends.
-- The spans of a usual sample, some 70,000, fit into that work_mem: on disk they would take half as long again.
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
    -- Parents may have started before the time, and children may start after it.
    read_from constant timestamptz := time_from - case when upwards then interval '10 minutes' else interval '0' end;
    read_to constant timestamptz := time_to + case when upwards then interval '0' else interval '10 minutes' end;
    origins constant bigint[] := array(
        select o.id from _promscale.origin as o where o.service_name = service and o.span_name = operation
    );
begin
    return query
    with recursive spans as materialized (
        select s.*
        -- As a uuid, because TimescaleDB's columnstore does not filter by a domain.
        from (select s::uuid from ps_trace.sample_traces(time_from, time_to, service, operation) as s offset 0) as t (id)
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
