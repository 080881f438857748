-- Upstream spans: what leads to an operation of a service?
--
-- From each call of the operation we climb to its parent, and to the parent's parent. A union keeps each span once: a
-- parent that several calls share is not counted again, and where bad data goes round in a circle, the climb ends.
-- To be fast at any size, we look at 500 traces at the most. The order of md5 is as good as random, and yet always the
-- same: the first 500 in it are a fair sample of the whole time, and all statements look at the same ones.
-- Parents are found if they started up to ten minutes before :time_from.
--
-- In psql a parameter stands for a piece of SQL, so that a text needs quotes of its own:
--     psql -v service="'upper'" -v operation="'random_upper'" -f queries/05-upstream-spans.sql
\if :{?time_from} \else \set time_from 'now() - interval ''15 minutes''' \endif
\if :{?time_to}   \else \set time_to   'now()' \endif
\if :{?service}   \else \set service   '''lower''' \endif
\if :{?operation} \else \set operation '''GET /''' \endif

-- name: upstream_nodes(time_from, time_to, service, operation)
-- Which operations are above the chosen one, how often do they run, and how long do they take on average?
-- These are the nodes of a graph, the chosen one included. The names of the columns are those that Grafana's node
-- graph looks for.
with recursive traces as (
    select trace_id
    from span
    where service_name = :service and span_name = :operation
        and start_time >= :time_from and start_time < :time_to
    group by trace_id
    order by md5(cast(trace_id as text))
    limit 500
), spans as (
    select trace_id, span_id, parent_span_id, service_name, span_name, start_time, duration_ms, status_code
    from span
    inner join traces using (trace_id)
    where start_time >= cast(:time_from as timestamptz) - interval '10 minutes' and start_time < :time_to
), above as (
    select *
    from spans
    where service_name = :service and span_name = :operation and start_time >= :time_from
    union
    select parent.*
    from above as child
    inner join spans as parent on parent.trace_id = child.trace_id and parent.span_id = child.parent_span_id
)
select
    cast(row(service_name, span_name) as text) as id,
    span_name as title,
    service_name as subtitle,
    count(*) as mainstat,
    avg(duration_ms) as secondarystat
from above
group by service_name, span_name
order by service_name, span_name;

-- name: upstream_edges(time_from, time_to, service, operation)
-- The edges of the same graph: which operation calls which, how often, and how long does the callee take on average?
with recursive traces as (
    select trace_id
    from span
    where service_name = :service and span_name = :operation
        and start_time >= :time_from and start_time < :time_to
    group by trace_id
    order by md5(cast(trace_id as text))
    limit 500
), spans as (
    select trace_id, span_id, parent_span_id, service_name, span_name, start_time, duration_ms, status_code
    from span
    inner join traces using (trace_id)
    where start_time >= cast(:time_from as timestamptz) - interval '10 minutes' and start_time < :time_to
), above as (
    select *
    from spans
    where service_name = :service and span_name = :operation and start_time >= :time_from
    union
    select parent.*
    from above as child
    inner join spans as parent on parent.trace_id = child.trace_id and parent.span_id = child.parent_span_id
)
select
    cast(row(caller.service_name, caller.span_name, callee.service_name, callee.span_name) as text) as id,
    cast(row(caller.service_name, caller.span_name) as text) as source,
    cast(row(callee.service_name, callee.span_name) as text) as target,
    count(*) as mainstat,
    avg(callee.duration_ms) as secondarystat
from above as callee
inner join above as caller on caller.trace_id = callee.trace_id and caller.span_id = callee.parent_span_id
group by caller.service_name, caller.span_name, callee.service_name, callee.span_name
order by source, target;

-- name: upstream_operations(time_from, time_to, service, operation)
-- How long do these operations take? What waits for another takes longer than that, so that the nearest come first.
with recursive traces as (
    select trace_id
    from span
    where service_name = :service and span_name = :operation
        and start_time >= :time_from and start_time < :time_to
    group by trace_id
    order by md5(cast(trace_id as text))
    limit 500
), spans as (
    select trace_id, span_id, parent_span_id, service_name, span_name, start_time, duration_ms, status_code
    from span
    inner join traces using (trace_id)
    where start_time >= cast(:time_from as timestamptz) - interval '10 minutes' and start_time < :time_to
), above as (
    select *
    from spans
    where service_name = :service and span_name = :operation and start_time >= :time_from
    union
    select parent.*
    from above as child
    inner join spans as parent on parent.trace_id = child.trace_id and parent.span_id = child.parent_span_id
)
select
    service_name,
    span_name,
    count(*) as calls,
    count(*) filter (where status_code = 'error') as errors,
    percentile_cont(0.50) within group (order by duration_ms) as p50_ms,
    percentile_cont(0.95) within group (order by duration_ms) as p95_ms,
    percentile_cont(0.99) within group (order by duration_ms) as p99_ms
from above
group by service_name, span_name
order by p50_ms, service_name, span_name;
