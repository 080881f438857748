-- Downstream spans: where does an operation of a service spend its time?
--
-- downstream_sample returns the calls of the operation and all of their descendants. It returns each span once, and
-- terminates if invalid data has a cycle of parents.
-- To be fast for any number of spans, the statements read at most 500 traces: a stratified sample, in which each minute
-- has its share of the operation's calls. ps_trace.sample_traces returns the same sample to all statements.
-- A child may start up to half an hour after the call, also after :time_to.
--
-- psql inserts the value of a parameter as a piece of SQL, so a text needs its own quotes:
--     psql -v service="'upper'" -v operation="'random_upper'" -f queries/06-downstream-spans.sql
\if :{?time_from} \else \set time_from 'now() - interval ''15 minutes''' \endif
\if :{?time_to}   \else \set time_to   'now()' \endif
\if :{?service}   \else \set service   '''lower''' \endif
\if :{?operation} \else \set operation '''GET /''' \endif

-- name: downstream_nodes(time_from, time_to, service, operation)
-- Which operations are downstream of the chosen one, how often are they called, and what is their mean duration?
-- The nodes of a graph, including the chosen operation.
select
    cast(row(service_name, span_name) as text) as id,
    service_name,
    span_name,
    count(*) as calls,
    count(*) filter (where status_code = 'error') as errors,
    avg(duration_ms) as mean_ms
from downstream_sample(:time_from, :time_to, :service, :operation)
group by service_name, span_name
order by calls desc, id
limit 1000;

-- name: downstream_edges(time_from, time_to, service, operation)
-- Which operation calls which, how often, and what is the mean duration of the callee? The edges of the same graph.
with downstream as (
    select *
    from downstream_sample(:time_from, :time_to, :service, :operation)
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
from downstream as callee
inner join downstream as caller on caller.trace_id = callee.trace_id and caller.span_id = callee.parent_span_id
group by caller.service_name, caller.span_name, callee.service_name, callee.span_name
order by calls desc, id
limit 1000;

-- name: downstream_shares(time_from, time_to, service, operation)
-- In which operations is the time spent?
-- The self time of a span is its duration minus that of its children. Concurrent children can take longer in total than
-- their parent: then its self time is zero.
with downstream as (
    select *
    from downstream_sample(:time_from, :time_to, :service, :operation)
), children as (
    select trace_id, parent_span_id as span_id, sum(duration_ms) as duration_ms
    from downstream
    group by trace_id, parent_span_id
)
select
    downstream.service_name,
    downstream.span_name,
    sum(greatest(downstream.duration_ms - coalesce(children.duration_ms, 0), 0)) as self_ms
from downstream
left join children using (trace_id, span_id)
group by downstream.service_name, downstream.span_name
order by self_ms desc, downstream.service_name, downstream.span_name
limit 1000;

-- name: downstream_time(time_from, time_to, service, operation)
-- How does the mean duration of each operation change?
-- Always in sixty steps, because 500 traces would be too few for every minute of a day.
-- A chart has room for twenty lines: the operations with the largest total duration.
with steps as materialized (
    select greatest((cast(:time_to as timestamptz) - cast(:time_from as timestamptz)) / 60, interval '1 second') as step
), downstream as (
    select service_name, span_name, start_time, duration_ms
    from downstream_sample(:time_from, :time_to, :service, :operation)
), shown_operations as (
    select service_name, span_name
    from downstream
    group by service_name, span_name
    order by sum(duration_ms) desc, service_name, span_name
    limit 20
)
select
    time_bucket((select step from steps), start_time) as time,
    time_bucket((select step from steps), start_time) + (select step from steps) as time_end,
    service_name,
    span_name,
    avg(duration_ms) as mean_ms
from downstream
inner join shown_operations using (service_name, span_name)
group by time, time_end, service_name, span_name
order by time, service_name, span_name;

-- name: downstream_operations(time_from, time_to, service, operation)
-- How long do the operations take? In the order of their total duration.
select
    service_name,
    span_name,
    count(*) as calls,
    count(*) filter (where status_code = 'error') as errors,
    percentile_cont(0.50) within group (order by duration_ms) as p50_ms,
    percentile_cont(0.95) within group (order by duration_ms) as p95_ms,
    percentile_cont(0.99) within group (order by duration_ms) as p99_ms
from downstream_sample(:time_from, :time_to, :service, :operation)
group by service_name, span_name
order by sum(duration_ms) desc, service_name, span_name
limit 1000;
