-- What only the MCP server asks. It also runs statements of queries/.

-- name: operations_in(time_from, time_to, most)
-- The calls of each operation, in whole minutes. The percentile is the upper end of the bucket that contains it, so
-- that it is at most 26 % too high: docs/sql.md describes the histogram.
with times as (
    select
        time_bucket(interval '1 minute', cast(:time_from as timestamptz)) as starts,
        time_bucket(interval '1 minute', cast(:time_to as timestamptz) - interval '1 microsecond')
            + interval '1 minute' as ends
), minutes as materialized (
    select service_name, span_name, calls, errors, total_ms, max_ms, duration_buckets, duration_counts
    from operation_minute
    where minute >= (select starts from times) and minute < (select ends from times)
), buckets as (
    select
        m.service_name,
        m.span_name,
        histogram.bucket,
        sum(sum(histogram.spans)) over (partition by m.service_name, m.span_name order by histogram.bucket) as so_far,
        sum(sum(histogram.spans)) over (partition by m.service_name, m.span_name) as spans
    from minutes as m
    cross join lateral unnest(m.duration_buckets, m.duration_counts) as histogram (bucket, spans)
    group by m.service_name, m.span_name, histogram.bucket
), percentiles as (
    select service_name, span_name, power(10, (min(bucket) + 1) / 10.0) as p95_ms
    from buckets
    where so_far >= 0.95 * spans
    group by service_name, span_name
)
select
    service_name,
    span_name,
    cast(sum(calls) as bigint) as calls,
    cast(sum(calls) as double precision)
        / (select greatest(extract(epoch from least(ends, now()) - starts), 1) from times) as calls_per_second,
    cast(sum(errors) as bigint) as errors,
    cast(100 * sum(errors) / sum(calls) as double precision) as error_percent,
    sum(total_ms) / cast(sum(calls) as double precision) as mean_ms,
    cast(least(min(p95_ms), max(max_ms)) as double precision) as p95_ms,
    max(max_ms) as max_ms
from minutes
left join percentiles using (service_name, span_name)
group by service_name, span_name
order by calls desc, service_name, span_name
limit :most;
