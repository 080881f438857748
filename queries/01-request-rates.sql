-- Request rates: how many requests come in?
--
-- A request is a root span, one without a parent: with it somebody began to want something.
--
-- In psql a parameter stands for a piece of SQL, so that a text needs quotes of its own:
--     psql -v time_from="now() - interval '1 hour'" -f queries/01-request-rates.sql
\if :{?time_from} \else \set time_from 'now() - interval ''15 minutes''' \endif
\if :{?time_to}   \else \set time_to   'now()' \endif
\if :{?step}      \else \set step      '''1 second''' \endif

-- name: request_rate_by_minute(time_from, time_to, step)
-- How many requests come in each second, on average over each minute?
-- A group without rows does not exist, so the minutes come from generate_series: one without requests shows 0.
-- Both ends are rounded down to whole minutes, because a part of a minute would look like a drop.
-- Of a long time, a minute would be less than a pixel: time_step chooses longer steps, so that there are at most 1,000.
-- Steps are not shorter than :step either, for charts that have fewer pixels than that.
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
-- The same by second: do requests come in evenly?
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
