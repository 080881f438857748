-- Service dependencies: which service calls which, how often, and how long does a call take?
--
-- A call is a span of the callee whose parent is a span of another service, the caller. OpenTelemetry creates such
-- pairs as client and server, or producer and consumer. The view service_call_minute has summaries of the calls per
-- minute; docs/sql.md has a join that finds them among the spans. So the statements include whole minutes, from the
-- minute that contains :time_from to the last minute that begins before :time_to. A call is counted when the callee
-- starts; the caller may have started earlier.
--
-- psql inserts the value of a parameter as a piece of SQL, so a text needs its own quotes:
--     psql -v time_from="now() - interval '1 hour'" -f queries/04-service-dependencies.sql
\if :{?time_from} \else \set time_from 'now() - interval ''15 minutes''' \endif
\if :{?time_to}   \else \set time_to   'now()' \endif

-- name: service_nodes(time_from, time_to)
-- Which services have calls, how often is each called, and what is the mean duration of a call?
-- The nodes of a graph: both services of a call, which is counted for the callee.
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
-- How often does one service call another, and what is the mean duration of a call? The edges of the same graph.
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
-- Which calls have the largest total duration? The same data as a table.
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
