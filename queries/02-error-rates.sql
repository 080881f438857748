-- Error rates: which services and operations fail, and when?
--
-- A span has failed if its status is error. Errors propagate: a failed span usually makes its callers fail, so that one
-- error appears in several services, and the operation with the highest error rate need not be the cause. An error
-- begins in a failed span without a failed child: the statements error_origins and error_origins_by_service count these
-- spans only. They look for failed children up to half an hour before and after the time range, too.
-- Other counts and rates are read from the view operation_minute, which has summaries of each operation per minute. So
-- these include whole minutes, from the minute that contains :time_from to the last minute that begins before :time_to.
--
-- psql inserts the value of a parameter as a piece of SQL, so a text needs its own quotes:
--     psql -v time_from="now() - interval '1 hour'" -f queries/02-error-rates.sql
\if :{?time_from} \else \set time_from 'now() - interval ''15 minutes''' \endif
\if :{?time_to}   \else \set time_to   'now()' \endif
\if :{?step}      \else \set step      '''1 second''' \endif

-- name: errors_by_service(time_from, time_to)
-- How many spans have failed in each service?
select
    service_name,
    cast(sum(errors) as bigint) as errors
from operation_minute
where errors > 0
    and minute >= time_bucket(interval '1 minute', cast(:time_from as timestamptz)) and minute < :time_to
group by service_name
order by errors desc, service_name
limit 1000;

-- name: error_origins_by_service(time_from, time_to)
-- In which services do errors begin?
with failed as materialized (
    select trace_id, span_id, parent_span_id, service_name, start_time
    from span
    where status_code = 'error'
        and start_time >= cast(:time_from as timestamptz) - interval '30 minutes'
        and start_time < cast(:time_to as timestamptz) + interval '30 minutes'
)
select
    service_name,
    count(*) as errors
from failed as origin
where start_time >= :time_from and start_time < :time_to
    and not exists (
        select
        from failed as child
        where child.trace_id = origin.trace_id
            and child.parent_span_id = origin.span_id
            and child.span_id <> origin.span_id
    )
group by service_name
order by errors desc, service_name
limit 1000;

-- name: error_origins(time_from, time_to)
-- In which operations do errors begin? Each has the most recent error as an example: its message and its trace.
with failed as materialized (
    select trace_id, span_id, parent_span_id, service_name, span_name, start_time, status_message
    from span
    where status_code = 'error'
        and start_time >= cast(:time_from as timestamptz) - interval '30 minutes'
        and start_time < cast(:time_to as timestamptz) + interval '30 minutes'
)
select
    service_name,
    span_name,
    count(*) as errors,
    100 * count(*) / cast(sum(count(*)) over () as double precision) as share_percent,
    (array_agg(status_message order by start_time desc))[1] as status_message,
    replace(cast((array_agg(trace_id order by start_time desc))[1] as text), '-', '') as trace_id
from failed as origin
where start_time >= :time_from and start_time < :time_to
    and not exists (
        select
        from failed as child
        where child.trace_id = origin.trace_id
            and child.parent_span_id = origin.span_id
            and child.span_id <> origin.span_id
    )
group by service_name, span_name
order by errors desc, service_name, span_name
limit 1000;

-- name: error_rate_by_operation(time_from, time_to)
-- How often is each operation called, and what percentage of its calls fail?
-- An operation without calls has no row, so there is no division by zero. At most 1,000 operations are returned.
select
    service_name,
    span_name,
    cast(sum(calls) as bigint) as calls,
    cast(sum(errors) as bigint) as errors,
    cast(100 * sum(errors) / sum(calls) as double precision) as error_percent
from operation_minute
where minute >= time_bucket(interval '1 minute', cast(:time_from as timestamptz)) and minute < :time_to
group by service_name, span_name
order by error_percent desc, errors desc, service_name, span_name
limit 1000;

-- name: error_rate_over_time(time_from, time_to, step)
-- What percentage of each service's spans fail, by minute, or in longer steps of a long time range?
-- A minute without spans of a service has no row, because its error rate is undefined.
-- A chart has room for twenty lines: the services with most errors.
with steps as materialized (
    select time_step(:time_from, :time_to, greatest(cast(:step as interval), interval '1 minute')) as step
), minutes as materialized (
    select minute, service_name, sum(calls) as calls, sum(errors) as errors
    from operation_minute
    where minute >= time_bucket(interval '1 minute', cast(:time_from as timestamptz)) and minute < :time_to
    group by minute, service_name
), shown_services as (
    select service_name
    from minutes
    group by service_name
    order by sum(errors) desc, service_name
    limit 20
)
select
    time_bucket((select step from steps), minute) as time,
    time_bucket((select step from steps), minute) + (select step from steps) as time_end,
    service_name,
    cast(100 * sum(errors) / sum(calls) as double precision) as error_percent
from minutes
where service_name in (select service_name from shown_services)
group by time, time_end, service_name
order by time, service_name;

-- name: failed_traces(time_from, time_to)
-- Which requests failed most recently?
-- A request is a root span. A trace whose root span has no error may contain errors that were handled.
select
    start_time,
    duration_ms,
    service_name,
    span_name,
    status_message,
    replace(cast(trace_id as text), '-', '') as trace_id
from span
where is_root_span
    and status_code = 'error'
    and start_time >= :time_from and start_time < :time_to
order by start_time desc
limit 20;
