-- Downstream spans: where does an operation of a service spend its time?
--
-- From each call of the operation, downstream_sample descends to its children, and to theirs. Each span is there once:
-- where bad data goes round in a circle, the descent ends.
-- To be fast at any size, we look at 500 traces at the most. Where there are more, each minute has as many of them as its
-- share of the operation's calls is: a stratified sample of the whole time, and for all statements the same.
-- ps_trace.sample_traces chooses it.
-- Children are found if they start up to half an hour after the call, also after :time_to.
--
-- In psql a parameter stands for a piece of SQL, so that a text needs quotes of its own:
--     psql -v service="'upper'" -v operation="'random_upper'" -f queries/06-downstream-spans.sql
\if :{?time_from} \else \set time_from 'now() - interval ''15 minutes''' \endif
\if :{?time_to}   \else \set time_to   'now()' \endif
\if :{?service}   \else \set service   '''lower''' \endif
\if :{?operation} \else \set operation '''GET /''' \endif

-- name: downstream_nodes(time_from, time_to, service, operation)
-- Which operations are below the chosen one, how often do they run, and how long do they take on average?
-- These are the nodes of a graph, the chosen one included.
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
-- The edges of the same graph: which operation calls which, how often, and how long does the callee take on average?
with below as (
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
from below as callee
inner join below as caller on caller.trace_id = callee.trace_id and caller.span_id = callee.parent_span_id
group by caller.service_name, caller.span_name, callee.service_name, callee.span_name
order by calls desc, id
limit 1000;

-- name: downstream_shares(time_from, time_to, service, operation)
-- In which operations is the time really spent?
-- The self time of a span is its duration less that of its children. Children that ran side by side may have taken
-- longer together than their parent: then its self time is zero.
with below as (
    select *
    from downstream_sample(:time_from, :time_to, :service, :operation)
), children as (
    select trace_id, parent_span_id as span_id, sum(duration_ms) as duration_ms
    from below
    group by trace_id, parent_span_id
)
select
    below.service_name,
    below.span_name,
    sum(greatest(below.duration_ms - coalesce(children.duration_ms, 0), 0)) as self_ms
from below
left join children using (trace_id, span_id)
group by below.service_name, below.span_name
order by self_ms desc, below.service_name, below.span_name
limit 1000;

-- name: downstream_time(time_from, time_to, service, operation)
-- How long does each of the operations take on average, and how does that change?
-- In sixty steps, however long the time is, because 500 traces would be too few for every minute of a day.
-- A chart has room for twenty lines: those of the operations in which most time passes.
with steps as materialized (
    select greatest((cast(:time_to as timestamptz) - cast(:time_from as timestamptz)) / 60, interval '1 second') as step
), below as (
    select service_name, span_name, start_time, duration_ms
    from downstream_sample(:time_from, :time_to, :service, :operation)
), shown_operations as (
    select service_name, span_name
    from below
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
from below
inner join shown_operations using (service_name, span_name)
group by time, time_end, service_name, span_name
order by time, service_name, span_name;

-- name: downstream_operations(time_from, time_to, service, operation)
-- How long do the operations take? Those in which most time passes come first.
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
