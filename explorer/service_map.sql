-- The statements of service_map.py. A call is a span whose parent span belongs to another service, the caller, or a span
-- without a parent, whose caller is null.

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
), spans as materialized (
    select span.trace_id, span.span_id, span.parent_span_id, span.service_name, span.duration_ms, span.status_code
    from chosen
    cross join lateral (
        select *
        from jaeger_span
        where trace_id = chosen.trace_id
            and start_time >= cast(:time_from as timestamptz) - interval '30 minutes'
            and start_time < cast(:time_to as timestamptz) + interval '30 minutes'
    ) as span
)
select
    caller.service_name as caller,
    callee.service_name as callee,
    grouping(caller.service_name) = 1 as of_all,
    count(*) as calls,
    count(*) filter (where callee.status_code = 'error') as errors,
    percentile_cont(0.95) within group (order by callee.duration_ms) as p95_ms,
    (select count(*) from traces) as traces
from spans as callee
left join spans as caller on caller.trace_id = callee.trace_id and caller.span_id = callee.parent_span_id
where caller.service_name is distinct from callee.service_name
group by grouping sets ((caller.service_name, callee.service_name), (callee.service_name))
