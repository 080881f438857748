-- Request durations: how long do requests take?
--
-- A request is a root span. An average would hide the few slow requests, so the statements return distributions.
-- Heat map and histogram have logarithmic buckets, ten per power of ten (1, 1.26, 1.58, ... 10, 12.6, ... ms), so that
-- their relative precision is the same for 2 ms and for 2 s.
--
-- psql inserts the value of a parameter as a piece of SQL, so a text needs its own quotes:
--     psql -v time_from="now() - interval '1 hour'" -f queries/03-request-durations.sql
\if :{?time_from} \else \set time_from 'now() - interval ''15 minutes''' \endif
\if :{?time_to}   \else \set time_to   'now()' \endif
\if :{?step}      \else \set step      '''1 second''' \endif

-- name: duration_heatmap(time_from, time_to, step)
-- How many requests had about which duration, by minute, or in longer steps of a long time range?
-- Only cells with requests have a row. Durations are rounded up to a microsecond, because zero has no logarithm.
with steps as materialized (
    select time_step(:time_from, :time_to, greatest(cast(:step as interval), interval '1 minute'), 200) as step
), requests as (
    select
        time_bucket((select step from steps), start_time) as time,
        floor(10 * log(greatest(duration_ms, 0.001))) as bucket
    from span
    where is_root_span
        and start_time >= :time_from and start_time < :time_to
)
select
    time,
    time + (select step from steps) as time_end,
    power(10, bucket / 10) as duration_from_ms,
    power(10, (bucket + 1) / 10) as duration_to_ms,
    count(*) as requests
from requests
group by time, bucket
order by time, bucket;

-- name: duration_histogram(time_from, time_to)
-- How many requests had about which duration, in the whole time range?
-- Empty buckets between the shortest and the longest duration are included, because gaps are informative.
with filled_buckets as (
    select
        floor(10 * log(greatest(duration_ms, 0.001))) as bucket,
        count(*) as requests
    from span
    where is_root_span
        and start_time >= :time_from and start_time < :time_to
    group by bucket
), all_buckets as (
    select generate_series(cast(min(bucket) as int), cast(max(bucket) as int)) as bucket
    from filled_buckets
)
select
    power(10, all_buckets.bucket / double precision '10') as duration_from_ms,
    power(10, (all_buckets.bucket + 1) / double precision '10') as duration_to_ms,
    coalesce(requests, 0) as requests
from all_buckets
left join filled_buckets using (bucket)
order by bucket;

-- name: duration_percentiles(time_from, time_to, step)
-- How do percentiles of the durations change? Half of the requests are faster than p50, 1 % are slower than p99.
-- A minute without requests has no row, because its percentiles are undefined. A long time range has longer steps.
with steps as materialized (
    select time_step(:time_from, :time_to, greatest(cast(:step as interval), interval '1 minute')) as step
)
select
    time_bucket((select step from steps), start_time) as time,
    time_bucket((select step from steps), start_time) + (select step from steps) as time_end,
    percentile_cont(0.50) within group (order by duration_ms) as p50_ms,
    percentile_cont(0.90) within group (order by duration_ms) as p90_ms,
    percentile_cont(0.95) within group (order by duration_ms) as p95_ms,
    percentile_cont(0.99) within group (order by duration_ms) as p99_ms
from span
where is_root_span
    and start_time >= :time_from and start_time < :time_to
group by time, time_end
order by time;

-- name: slowest_traces(time_from, time_to)
-- Which requests were slowest?
-- Trace ids are hexadecimal as in tracing tools, without the hyphens of PostgreSQL's uuid.
select
    start_time,
    duration_ms,
    cast(status_code as text) as status_code,
    service_name,
    span_name,
    replace(cast(trace_id as text), '-', '') as trace_id
from span
where is_root_span
    and start_time >= :time_from and start_time < :time_to
order by duration_ms desc
limit 20;
