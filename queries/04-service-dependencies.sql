-- Service dependencies: who calls whom, how often, and how long does it take?
--
-- A call is a span, the callee's, whose parent is another service's, the caller's. OpenTelemetry makes such pairs of
-- a client and a server span, or of producer and consumer; not to look at other kinds of spans saves much time.
-- The caller's span starts first, maybe before :time_from: it is found if it started up to ten minutes before.
--
-- In psql a parameter stands for a piece of SQL, so that a text needs quotes of its own:
--     psql -v time_from="now() - interval '1 hour'" -f queries/04-service-dependencies.sql
\if :{?time_from} \else \set time_from 'now() - interval ''15 minutes''' \endif
\if :{?time_to}   \else \set time_to   'now()' \endif

-- name: service_nodes(time_from, time_to)
-- Which services take part in calls, how often is each called, and how long does it take to answer on average?
-- These are the nodes of a graph. The names of the columns are those that Grafana's node graph looks for.
with calls as (
    select
        caller.service_name as caller,
        callee.service_name as callee,
        count(*) as calls,
        count(*) filter (where callee.status_code = 'error') as errors,
        sum(callee.duration_ms) as total_ms
    from span as callee
    inner join span as caller
        on caller.trace_id = callee.trace_id
        and caller.span_id = callee.parent_span_id
        and caller.service_name <> callee.service_name
    where callee.span_kind in ('server', 'consumer', 'unspecified')
        and callee.start_time >= :time_from and callee.start_time < :time_to
        and caller.span_kind in ('client', 'producer', 'unspecified')
        and caller.start_time >= cast(:time_from as timestamptz) - interval '10 minutes'
        and caller.start_time < :time_to
    group by caller.service_name, callee.service_name
), services as (
    select callee as service_name, calls, total_ms
    from calls
    union all
    select caller, 0, 0
    from calls
)
select
    service_name as id,
    service_name as title,
    cast(sum(calls) as bigint) as mainstat,
    sum(total_ms) / cast(nullif(sum(calls), 0) as double precision) as secondarystat
from services
group by service_name
order by service_name;

-- name: service_edges(time_from, time_to)
-- The edges of the same graph: how often does one service call another, and how long does a call take on average?
with calls as (
    select
        caller.service_name as caller,
        callee.service_name as callee,
        count(*) as calls,
        count(*) filter (where callee.status_code = 'error') as errors,
        sum(callee.duration_ms) as total_ms
    from span as callee
    inner join span as caller
        on caller.trace_id = callee.trace_id
        and caller.span_id = callee.parent_span_id
        and caller.service_name <> callee.service_name
    where callee.span_kind in ('server', 'consumer', 'unspecified')
        and callee.start_time >= :time_from and callee.start_time < :time_to
        and caller.span_kind in ('client', 'producer', 'unspecified')
        and caller.start_time >= cast(:time_from as timestamptz) - interval '10 minutes'
        and caller.start_time < :time_to
    group by caller.service_name, callee.service_name
)
select
    cast(row(caller, callee) as text) as id,
    caller as source,
    callee as target,
    calls as mainstat,
    total_ms / calls as secondarystat
from calls
order by caller, callee;

-- name: service_calls(time_from, time_to)
-- The same as a table: which calls take most time altogether?
with calls as (
    select
        caller.service_name as caller,
        callee.service_name as callee,
        count(*) as calls,
        count(*) filter (where callee.status_code = 'error') as errors,
        sum(callee.duration_ms) as total_ms
    from span as callee
    inner join span as caller
        on caller.trace_id = callee.trace_id
        and caller.span_id = callee.parent_span_id
        and caller.service_name <> callee.service_name
    where callee.span_kind in ('server', 'consumer', 'unspecified')
        and callee.start_time >= :time_from and callee.start_time < :time_to
        and caller.span_kind in ('client', 'producer', 'unspecified')
        and caller.start_time >= cast(:time_from as timestamptz) - interval '10 minutes'
        and caller.start_time < :time_to
    group by caller.service_name, callee.service_name
)
select
    caller,
    callee,
    calls,
    errors,
    total_ms,
    total_ms / calls as mean_ms
from calls
order by total_ms desc, caller, callee;
