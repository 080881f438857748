-- The statements of service_map.py. A call is a span whose parent span belongs to another service, the caller, or a
-- span without a parent, whose caller is null.

-- name: calls(time_from, time_to)
-- All calls of whole minutes, from summaries and from the index of root spans.
select
    caller_service_name as caller,
    callee_service_name as callee,
    cast(sum(calls) as bigint) as calls,
    cast(sum(errors) as bigint) as errors
from call_minute
where caller_service_name <> callee_service_name and minute >= :time_from and minute < :time_to
group by caller_service_name, callee_service_name
union all
select
    null,
    service_name,
    count(*),
    count(*) filter (where status_code = 'error')
from jaeger_span
where parent_span_id is null and start_time >= :time_from and start_time < :time_to
group by service_name

-- name: sampled_calls#
-- The calls in a sample of traces: those that come first by a hash of their ids. {matches} is the condition of
-- explorer/analysis/matching.py. For each pair of services, and with the caller null and `of_all` for each callee.
with traces as materialized (
    select distinct trace_id
    from jaeger_span
    where start_time >= cast(:time_from as timestamptz) and start_time < cast(:time_to as timestamptz) and {matches}
), chosen as materialized (
    select trace_id
    from traces
    order by uuid_hash_extended(trace_id, 0), trace_id
    limit :most
), spans as (
    select span.trace_id, span.span_id, span.parent_span_id, span.service_name, span.duration_ms, span.status_code
    from chosen
    cross join lateral (
        select *
        from jaeger_span
        where trace_id = chosen.trace_id
            and start_time >= cast(:time_from as timestamptz) - interval '30 minutes'
            and start_time < cast(:time_to as timestamptz) + interval '30 minutes'
    ) as span
), linked as (
    -- Each span next to its parent, by sorting: without statistics of new partitions, the planner joins by nested loops.
    select
        service_name as callee,
        duration_ms,
        status_code,
        is_callee,
        max(service_name) filter (where not is_callee) over (partition by trace_id, link_id) as caller
    from spans
    cross join lateral (values (parent_span_id, true), (span_id, false)) as link (link_id, is_callee)
)
select
    caller,
    callee,
    grouping(caller) = 1 as of_all,
    count(*) as calls,
    count(*) filter (where status_code = 'error') as errors,
    percentile_cont(0.95) within group (order by duration_ms) as p95_ms,
    (select count(*) from traces) as traces
from linked
where is_callee and caller is distinct from callee
group by grouping sets ((caller, callee), (callee))
