-- Request rates: how many requests arrive?
--
-- A request is a root span: a span without a parent, with which a trace begins.
--
-- psql inserts the value of a parameter as a piece of SQL, so a text needs its own quotes:
--     psql -v time_from="now() - interval '1 hour'" -f queries/01-request-rates.sql
\if :{?time_from} \else \set time_from 'now() - interval ''15 minutes''' \endif
\if :{?time_to}   \else \set time_to   'now()' \endif
\if :{?step}      \else \set step      '''1 second''' \endif

-- name: request_rate_by_minute(time_from, time_to, step)
-- How many requests per second arrive, on average over each minute?
-- Minutes come from generate_series, because "group by" returns no row for a minute without requests, which must be 0.
-- Both ends are rounded down to whole minutes, because an incomplete minute would look like a drop.
-- For a long time range, time_step returns longer steps, so that there are at most 1,000: a minute would be less than a
-- pixel. Steps are at least as long as :step, which is longer for charts with few pixels.
with steps as materialized (
    select time_step(:time_from, :time_to, greatest(cast(:step as interval), interval '1 minute')) as step
), busy_steps as (
    select
        time_bucket((select step from steps), start_time) as time,
        count(*) as requests
    from span
    where is_root_span
        and start_time >= time_bucket(interval '1 minute', cast(:time_from as timestamptz))
        and start_time < :time_to
    group by time
)
select
    time,
    time + step as time_end,
    coalesce(requests, 0) / cast(extract(epoch from step) as double precision) as requests_per_second
from steps
cross join generate_series(
    time_bucket(step, time_bucket(interval '1 minute', cast(:time_from as timestamptz)) + step - interval '1 minute'),
    time_bucket(step, cast(:time_to as timestamptz)) - step,
    step
) as time
left join busy_steps using (time)
order by time;

-- name: request_rate_by_second(time_from, time_to, step)
-- The same by second: do requests arrive evenly?
with steps as materialized (
    select time_step(:time_from, :time_to, greatest(cast(:step as interval), interval '1 second')) as step
), busy_steps as (
    select
        time_bucket((select step from steps), start_time) as time,
        count(*) as requests
    from span
    where is_root_span
        and start_time >= time_bucket(interval '1 second', cast(:time_from as timestamptz))
        and start_time < :time_to
    group by time
)
select
    time,
    time + step as time_end,
    coalesce(requests, 0) / cast(extract(epoch from step) as double precision) as requests_per_second
from steps
cross join generate_series(
    time_bucket(step, time_bucket(interval '1 second', cast(:time_from as timestamptz)) + step - interval '1 second'),
    time_bucket(step, cast(:time_to as timestamptz)) - step,
    step
) as time
left join busy_steps using (time)
order by time;
