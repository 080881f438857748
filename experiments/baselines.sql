-- Two baselines for finding the operation in which a fault is. They compare two periods, before and during it, and
-- rank operations. A period has the traces whose root span starts and ends in it.
--
-- psql inserts the value of a parameter as a piece of SQL, so a text needs its own quotes:
--     psql -v before_from="'2026-01-01 12:00'" -v before_to="'2026-01-01 12:05'" -v during_from="'2026-01-01 12:05'" \
--         -v during_to="'2026-01-01 12:10'" -f experiments/baselines.sql
\if :{?before_from} \else \set before_from 'now() - interval ''10 minutes''' \endif
\if :{?before_to}   \else \set before_to   'now() - interval ''5 minutes''' \endif
\if :{?during_from} \else \set during_from 'now() - interval ''5 minutes''' \endif
\if :{?during_to}   \else \set during_to   'now()' \endif

-- name: self_time(before_from, before_to, during_from, during_to)
-- Of which operation has the self time grown most?
-- The self time of a span is its duration minus that of its children, and 0 if they ran at the same time and took
-- longer together. It is added up over all spans of an operation and divided by the number of traces, so that an
-- operation that is called more often takes more time, too.
with requests as materialized (
    select trace_id, start_time >= cast(:during_from as timestamptz) as during
    from span
    where is_root_span
        and (
            (start_time >= cast(:before_from as timestamptz) and end_time <= cast(:before_to as timestamptz))
            or (start_time >= cast(:during_from as timestamptz) and end_time <= cast(:during_to as timestamptz))
        )
), spans as materialized (
    select requests.during, span.trace_id, span.span_id, span.parent_span_id, service_name, span_name, duration_ms
    from requests
    inner join span on span.trace_id = requests.trace_id
    where span.start_time >= cast(:before_from as timestamptz) - interval '30 minutes'
        and span.start_time < cast(:during_to as timestamptz) + interval '30 minutes'
), children as (
    select trace_id, parent_span_id as span_id, sum(duration_ms) as duration_ms
    from spans
    group by trace_id, parent_span_id
), totals as (
    select
        spans.service_name,
        spans.span_name,
        spans.during,
        sum(greatest(spans.duration_ms - coalesce(children.duration_ms, 0), 0)) as self_ms
    from spans
    left join children using (trace_id, span_id)
    group by spans.service_name, spans.span_name, spans.during
), sizes as (
    select during, count(distinct trace_id) as traces
    from requests
    group by during
)
select
    service_name,
    span_name,
    sum(case when during then self_ms else -self_ms end / traces) as growth_ms
from totals
inner join sizes using (during)
group by service_name, span_name
having sum(case when during then self_ms else -self_ms end / traces) > 0
order by growth_ms desc, service_name, span_name
limit 1000;

-- name: error_origins(before_from, before_to, during_from, during_to)
-- In which operation do more errors begin than before?
-- An error begins in a failed span without a failed child.
with requests as materialized (
    select trace_id, start_time >= cast(:during_from as timestamptz) as during
    from span
    where is_root_span
        and (
            (start_time >= cast(:before_from as timestamptz) and end_time <= cast(:before_to as timestamptz))
            or (start_time >= cast(:during_from as timestamptz) and end_time <= cast(:during_to as timestamptz))
        )
), failed as materialized (
    select requests.during, span.trace_id, span.span_id, span.parent_span_id, service_name, span_name
    from requests
    inner join span on span.trace_id = requests.trace_id
    where span.status_code = 'error'
        and span.start_time >= cast(:before_from as timestamptz) - interval '30 minutes'
        and span.start_time < cast(:during_to as timestamptz) + interval '30 minutes'
), totals as (
    select service_name, span_name, during, count(*) as errors
    from failed as origin
    where not exists (
        select
        from failed as child
        where child.trace_id = origin.trace_id
            and child.parent_span_id = origin.span_id
            and child.span_id <> origin.span_id
    )
    group by service_name, span_name, during
), sizes as (
    select during, count(distinct trace_id) as traces
    from requests
    group by during
)
select
    service_name,
    span_name,
    sum(case when during then errors else -errors end / cast(traces as double precision)) as growth
from totals
inner join sizes using (during)
group by service_name, span_name
having sum(case when during then errors else -errors end / cast(traces as double precision)) > 0
order by growth desc, service_name, span_name
limit 1000;
