-- Service dependencies: who calls whom, how often, and how long does it take?
--
-- A call is a span, the callee's, whose parent is another service's, the caller's. OpenTelemetry makes such pairs of a
-- client and a server span, or of producer and consumer. The view service_call_minute has those of each minute counted
-- already; docs/sql.md shows how to find them among the spans. So these look at whole minutes, from the one that
-- :time_from lies in to the last that begins before :time_to. The callee starts in that time, the caller at any.
--
-- In psql a parameter stands for a piece of SQL, so that a text needs quotes of its own:
--     psql -v time_from="now() - interval '1 hour'" -f queries/04-service-dependencies.sql
\if :{?time_from} \else \set time_from 'now() - interval ''15 minutes''' \endif
\if :{?time_to}   \else \set time_to   'now()' \endif

-- name: service_nodes(time_from, time_to)
-- Which services take part in calls, how often is each called, and how long does it take to answer on average?
-- These are the nodes of a graph.
-- A call shows both of its services, and counts for the callee.
select
    service.name as id,
    service.name as service_name,
    cast(sum(service.calls) as bigint) as calls,
    cast(sum(service.errors) as bigint) as errors,
    sum(service.total_ms) / cast(nullif(sum(service.calls), 0) as double precision) as mean_ms
from service_call_minute as m
cross join lateral (
    values (m.callee, m.calls, m.errors, m.total_ms), (m.caller, 0, 0, 0)
) as service (name, calls, errors, total_ms)
where m.minute >= time_bucket(interval '1 minute', cast(:time_from as timestamptz)) and m.minute < :time_to
group by service.name
order by calls desc, id
limit 1000;

-- name: service_edges(time_from, time_to)
-- The edges of the same graph: how often does one service call another, and how long does a call take on average?
select
    cast(row(caller, callee) as text) as id,
    caller as source,
    callee as target,
    callee as service_name,
    cast(sum(calls) as bigint) as calls,
    cast(sum(errors) as bigint) as errors,
    sum(total_ms) / cast(sum(calls) as double precision) as mean_ms
from service_call_minute
where minute >= time_bucket(interval '1 minute', cast(:time_from as timestamptz)) and minute < :time_to
group by caller, callee
order by calls desc, id
limit 1000;

-- name: service_calls(time_from, time_to)
-- The same as a table: which calls take most time altogether?
select
    caller,
    callee,
    cast(sum(calls) as bigint) as calls,
    cast(sum(errors) as bigint) as errors,
    sum(total_ms) as total_ms,
    sum(total_ms) / cast(sum(calls) as double precision) as mean_ms
from service_call_minute
where minute >= time_bucket(interval '1 minute', cast(:time_from as timestamptz)) and minute < :time_to
group by caller, callee
order by total_ms desc, caller, callee
limit 1000;
