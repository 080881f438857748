-- Upstream spans: what leads to an operation of a service?
--
-- upstream_sample returns the calls of the operation and all of their ancestors. It returns each span once, also the
-- parent of several calls, and terminates if invalid data has a cycle of parents.
-- To be fast for any number of spans, the statements read at most 500 traces: a stratified sample, in which each minute
-- has its share of the operation's calls. ps_trace.sample_traces returns the same sample to all statements.
-- A parent may start up to half an hour before the call, also before :time_from.
--
-- psql inserts the value of a parameter as a piece of SQL, so a text needs its own quotes:
--     psql -v service="'upper'" -v operation="'random_upper'" -f queries/05-upstream-spans.sql
\if :{?time_from} \else \set time_from 'now() - interval ''15 minutes''' \endif
\if :{?time_to}   \else \set time_to   'now()' \endif
\if :{?service}   \else \set service   '''lower''' \endif
\if :{?operation} \else \set operation '''GET /''' \endif

-- name: upstream_nodes(time_from, time_to, service, operation)
-- Which operations are upstream of the chosen one, how often are they called, and what is their mean duration?
-- The nodes of a graph, including the chosen operation.
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
-- Which operation calls which, how often, and what is the mean duration of the callee? The edges of the same graph.
with upstream as (
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
from upstream as callee
inner join upstream as caller on caller.trace_id = callee.trace_id and caller.span_id = callee.parent_span_id
group by caller.service_name, caller.span_name, callee.service_name, callee.span_name
order by calls desc, id
limit 1000;

-- name: upstream_operations(time_from, time_to, service, operation)
-- How long do these operations take? Callers take longer than callees, so this order begins with the nearest callers.
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
