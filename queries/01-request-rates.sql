-- Request rates: how many requests come in?
--
-- A request is a root span, one without a parent: with it somebody began to want something.
--
-- In psql a parameter stands for a piece of SQL, so that a text needs quotes of its own:
--     psql -v time_from="now() - interval '1 hour'" -f queries/01-request-rates.sql
\if :{?time_from} \else \set time_from 'now() - interval ''15 minutes''' \endif
\if :{?time_to}   \else \set time_to   'now()' \endif

-- name: request_rate_by_minute(time_from, time_to)
-- How many requests come in each second, on average over each minute?
-- A group without rows does not exist, so the minutes come from generate_series: one without requests shows 0.
-- Both ends are rounded down to whole minutes, because a part of a minute would look like a drop.
with busy_minutes as (
    select
        time_bucket(interval '1 minute', start_time) as minute,
        count(*) as requests
    from span
    where is_root_span
        and start_time >= time_bucket(interval '1 minute', cast(:time_from as timestamptz))
        and start_time < :time_to
    group by minute
)
select
    minute as time,
    cast(coalesce(requests, 0) as double precision) / 60 as requests_per_second
from generate_series(
    time_bucket(interval '1 minute', cast(:time_from as timestamptz)),
    time_bucket(interval '1 minute', cast(:time_to as timestamptz)) - interval '1 minute',
    interval '1 minute'
) as minute
left join busy_minutes using (minute)
order by minute;

-- name: request_rate_by_second(time_from, time_to)
-- The same by second: do requests come in evenly?
with busy_seconds as (
    select
        time_bucket(interval '1 second', start_time) as second,
        count(*) as requests
    from span
    where is_root_span
        and start_time >= time_bucket(interval '1 second', cast(:time_from as timestamptz))
        and start_time < :time_to
    group by second
)
select
    second as time,
    cast(coalesce(requests, 0) as double precision) as requests_per_second
from generate_series(
    time_bucket(interval '1 second', cast(:time_from as timestamptz)),
    time_bucket(interval '1 second', cast(:time_to as timestamptz)) - interval '1 second',
    interval '1 second'
) as second
left join busy_seconds using (second)
order by second;
