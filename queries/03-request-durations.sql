-- Request durations: how long do requests take?
--
-- A request is a root span. An average would hide the few that take long, so these look at the whole distribution.
-- Heat map and histogram sort durations into buckets, ten from each power of ten to the next (1, 1.26, 1.58, ... 10,
-- 12.6, ... ms): each is a quarter wider than the one before, so that both 2 ms and 2 s show at their best.
--
-- In psql a parameter stands for a piece of SQL, so that a text needs quotes of its own:
--     psql -v time_from="now() - interval '1 hour'" -f queries/03-request-durations.sql
\if :{?time_from} \else \set time_from 'now() - interval ''15 minutes''' \endif
\if :{?time_to}   \else \set time_to   'now()' \endif
\if :{?step}      \else \set step      '''1 second''' \endif

-- name: duration_heatmap(time_from, time_to, step)
-- In each minute, or in longer steps of a long time, how many requests took about how long?
-- Only cells with requests have a row. Zero has no logarithm, so that everything takes a microsecond at least.
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
-- In the whole time, how many requests took about how long?
-- Between the shortest and the longest, buckets without requests are shown too, because a gap tells something.
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
-- Half of the requests are faster than p50, and one in a hundred is slower than p99: how do these change over time?
-- A minute without requests has no row, because there is no duration of nothing. Of a long time, the steps are longer.
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
-- Which requests took longest?
-- The trace id is written as tracing tools write it, without the dashes that PostgreSQL puts in.
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
