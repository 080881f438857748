-- Upstream spans: what leads to an operation of a service?
--
-- From each call of the operation, upstream_sample climbs to its parent, and to the parent's parent. Each span is there
-- once: a parent that several calls share is not counted again, and where bad data goes round in a circle, the climb
-- ends.
-- To be fast at any size, we look at 500 traces at the most. Where there are more, each minute has as many of them as its
-- share of the operation's calls is: a stratified sample of the whole time, and for all statements the same.
-- ps_trace.sample_traces chooses it.
-- Parents are found if they start up to half an hour before the call, also before :time_from.
--
-- In psql a parameter stands for a piece of SQL, so that a text needs quotes of its own:
--     psql -v service="'upper'" -v operation="'random_upper'" -f queries/05-upstream-spans.sql
\if :{?time_from} \else \set time_from 'now() - interval ''15 minutes''' \endif
\if :{?time_to}   \else \set time_to   'now()' \endif
\if :{?service}   \else \set service   '''lower''' \endif
\if :{?operation} \else \set operation '''GET /''' \endif

-- name: upstream_nodes(time_from, time_to, service, operation)
-- Which operations are above the chosen one, how often do they run, and how long do they take on average?
-- These are the nodes of a graph, the chosen one included.
select
    cast(row(service_name, span_name) as text) as id,
    service_name,
    span_name,
    count(*) as calls,
    count(*) filter (where status_code = 'error') as errors,
    avg(duration_ms) as mean_ms
from upstream_sample(:time_from, :time_to, :service, :operation)
group by service_name, span_name
order by calls desc, id
limit 1000;

-- name: upstream_edges(time_from, time_to, service, operation)
-- The edges of the same graph: which operation calls which, how often, and how long does the callee take on average?
with above as (
    select *
    from upstream_sample(:time_from, :time_to, :service, :operation)
)
select
    cast(row(caller.service_name, caller.span_name, callee.service_name, callee.span_name) as text) as id,
    cast(row(caller.service_name, caller.span_name) as text) as source,
    cast(row(callee.service_name, callee.span_name) as text) as target,
    callee.service_name,
    callee.span_name,
    count(*) as calls,
    count(*) filter (where callee.status_code = 'error') as errors,
    avg(callee.duration_ms) as mean_ms
from above as callee
inner join above as caller on caller.trace_id = callee.trace_id and caller.span_id = callee.parent_span_id
group by caller.service_name, caller.span_name, callee.service_name, callee.span_name
order by calls desc, id
limit 1000;

-- name: upstream_operations(time_from, time_to, service, operation)
-- How long do these operations take? What waits for another takes longer than that, so that the nearest come first.
select
    service_name,
    span_name,
    count(*) as calls,
    count(*) filter (where status_code = 'error') as errors,
    percentile_cont(0.50) within group (order by duration_ms) as p50_ms,
    percentile_cont(0.95) within group (order by duration_ms) as p95_ms,
    percentile_cont(0.99) within group (order by duration_ms) as p99_ms
from upstream_sample(:time_from, :time_to, :service, :operation)
group by service_name, span_name
order by p50_ms, service_name, span_name
limit 1000;
