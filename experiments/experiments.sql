-- The statements of experiments/.

-- name: spans#
-- The beginning of the other statements: the traces of a phase, which are those whose root span starts and ends in it,
-- and their spans. These are looked for up to half an hour before and after it, because a clock may be wrong.
requests as materialized (
    select
        trace_id,
        min(service_name) as service_name
    from span
    where is_root_span
        and start_time >= cast(:time_from as timestamptz) and start_time < cast(:time_to as timestamptz)
        and end_time <= cast(:time_to as timestamptz)
    group by trace_id
), spans as materialized (
    select
        span.trace_id,
        span.span_id,
        span.parent_span_id,
        span.service_name,
        span.span_name,
        span.start_time,
        span.end_time,
        span.duration_ms,
        span.status_code = 'error' as failed
    from requests
    inner join span on span.trace_id = requests.trace_id
    where span.start_time >= cast(:time_from as timestamptz) - interval '30 minutes'
        and span.start_time < cast(:time_to as timestamptz) + interval '30 minutes'
)

-- name: measurements#
-- Of each trace, what indicators.py needs about an operation of a service.
select
    array_agg(spans.duration_ms order by spans.start_time) filter (where measured) as durations_ms,
    count(*) filter (where measured) as calls,
    count(*) filter (where measured and spans.failed) as errors,
    cast(
        1000 * extract(
            epoch from max(greatest(parent.start_time - spans.start_time, spans.end_time - parent.end_time, '0'))
            filter (where measured)
        ) as double precision
    ) as outside_ms,
    count(distinct spans.span_name) filter (where spans.service_name = :service) as service_names,
    count(*) filter (where spans.failed and parent.service_name = :service and not parent.failed) as handled_errors,
    min(requests.service_name) = :service as begins
from requests
inner join spans on spans.trace_id = requests.trace_id
cross join lateral (select spans.service_name = :service and spans.span_name = :operation) as condition (measured)
left join spans as parent on parent.trace_id = spans.trace_id and parent.span_id = spans.parent_span_id
group by requests.trace_id

-- name: affected#
-- All spans of the traces in which a fault took effect, trace by trace. `effects` are those on the span, in the order of
-- time, as arrays of flag, variant, added milliseconds and message of the error.
select
    replace(cast(trace_id as text), '-', '') as trace_id,
    span_id,
    parent_span_id,
    service_name,
    span_name,
    start_time,
    end_time,
    failed,
    effects
from (
    select
        spans.*,
        labels.effects,
        count(labels.effects) over (partition by spans.trace_id) > 0 as is_affected
    from spans
    left join (
        select
            trace_id,
            span_id,
            jsonb_agg(
                jsonb_build_array(
                    event_tags -> 'feature_flag.key',
                    event_tags -> 'feature_flag.result.variant',
                    event_tags -> 'demo.fault.added_ms',
                    event_tags -> 'demo.fault.error'
                )
                order by time
            ) as effects
        from event
        where event_name = 'feature_flag.evaluation'
            and span_start_time >= cast(:time_from as timestamptz) - interval '30 minutes'
            and span_start_time < cast(:time_to as timestamptz) + interval '30 minutes'
            and span_tags -> 'demo.fault.name' is not null
        group by trace_id, span_id
    ) as labels on labels.trace_id = spans.trace_id and labels.span_id = spans.span_id
) as labelled
where is_affected
order by trace_id, start_time, span_id

-- name: counts#
-- How many traces, spans and failed spans are there?
select
    count(distinct trace_id) as traces,
    count(*) as spans,
    count(*) filter (where failed) as errors
from spans

-- name: operations#
-- Which operations are there?
select distinct service_name, span_name
from spans
order by service_name, span_name
