-- name: service_health(time_from, time_to)
-- For each service that is called: by minute, and in a row without a minute for the whole time range, the calls, the
-- failed calls, and the 95th percentile of their durations. The summaries count durations in logarithmic buckets, ten
-- per power of ten, so the percentile is interpolated within a bucket.
with calls as materialized (
    select service_name, minute, calls, errors, duration_buckets, duration_counts
    from operation_minute
    where span_kind in ('server', 'consumer')
        and minute >= time_bucket(interval '1 minute', cast(:time_from as timestamptz)) and minute < :time_to
), buckets as (
    select
        service_name,
        minute,
        duration.bucket,
        sum(duration.calls) as calls
    from calls
    cross join lateral unnest(duration_buckets, duration_counts) as duration (bucket, calls)
    group by grouping sets ((service_name, minute, duration.bucket), (service_name, duration.bucket))
), ranks as (
    select
        *,
        sum(calls) over (partition by service_name, minute order by bucket) as up_to,
        0.95 * sum(calls) over (partition by service_name, minute) as sought
    from buckets
), percentiles as (
    select
        service_name,
        minute,
        power(10, (bucket + (sought - up_to + calls) / calls) / 10) as p95_ms
    from ranks
    where sought > up_to - calls and sought <= up_to
), totals as (
    select
        service_name,
        minute,
        sum(calls) as calls,
        sum(errors) as errors
    from calls
    group by grouping sets ((service_name, minute), (service_name))
)
select
    totals.service_name,
    totals.minute,
    cast(totals.calls as bigint) as calls,
    cast(totals.errors as bigint) as errors,
    cast(percentiles.p95_ms as double precision) as p95_ms
from totals
left join percentiles
    on percentiles.service_name = totals.service_name
        and percentiles.minute is not distinct from totals.minute
order by totals.service_name, totals.minute
limit 2000;
