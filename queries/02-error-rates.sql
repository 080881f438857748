-- Error rates: which services and operations fail, and when?
--
-- A span has failed if its status is error. What fails deep down mostly fails all that waits for it as well, so that
-- one broken call shows in several services: the operation that fails most often need not be the one to blame.
-- The view operation_minute has the spans of each minute counted already, by operation. So these look at whole minutes,
-- from the one that :time_from lies in to the last that begins before :time_to.
--
-- In psql a parameter stands for a piece of SQL, so that a text needs quotes of its own:
--     psql -v time_from="now() - interval '1 hour'" -f queries/02-error-rates.sql
\if :{?time_from} \else \set time_from 'now() - interval ''15 minutes''' \endif
\if :{?time_to}   \else \set time_to   'now()' \endif
\if :{?step}      \else \set step      '''1 second''' \endif

-- name: errors_by_service(time_from, time_to)
-- How many spans of each service have failed?
select
    service_name,
    cast(sum(errors) as bigint) as errors
from operation_minute
where errors > 0
    and minute >= time_bucket(interval '1 minute', cast(:time_from as timestamptz)) and minute < :time_to
group by service_name
order by errors desc, service_name
limit 1000;

-- name: error_rate_by_operation(time_from, time_to)
-- How often does each operation run, and how many percent of that fail?
-- An operation that did not run has no row, so nothing is ever divided by zero. At most 1,000 are shown.
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
-- How many percent of the spans of each service fail, minute by minute, or in longer steps of a long time?
-- A minute in which a service did nothing has no row: of nothing, no part has failed, and none has worked.
-- A chart has room for twenty lines: those of the services with most errors.
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
-- Which requests failed last?
-- A request is a root span. One whose root span has no error may still have spans with errors, which did no harm.
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
