-- The users' interface, schema ps_trace, over the tables of _promscale. The views span, event, link and operation are
-- replaced and not dropped, because users may have made views of their own on them.

create function _promscale.end_time(start_time timestamptz, start_ns smallint, duration_ms double precision)
returns timestamptz
language sql immutable strict parallel safe
-- Whole nanoseconds first, so that the microsecond is the one that the end's nanoseconds lie in.
return start_time + floor((round(duration_ms * 1e6) + start_ns) / 1e3) * interval '1 microsecond';

create function _promscale.event_time(start_time timestamptz, event jsonb) returns timestamptz
language sql immutable strict parallel safe
return start_time + (event ->> 0)::bigint * interval '1 microsecond';

create function _promscale.span_id_from_hex(hex text) returns bigint
language sql immutable strict parallel safe
return ('x' || hex)::bit(64)::bigint;

-- A span as users see it, and behind that what the views, and Jaeger's searches, need besides.
create view _promscale.readable_span as
select
    s.trace_id::ps_trace.trace_id as trace_id,
    s.span_id,
    s.trace_state,
    s.parent_span_id,
    s.parent_span_id is null as is_root_span,
    o.service_name,
    o.span_name,
    o.span_kind,
    s.start_time,
    t.end_time,
    -- OTLP lets a span end before it starts; a range does not.
    tstzrange(s.start_time, greatest(s.start_time, t.end_time), '[]') as time_range,
    s.duration_ms,
    (
        case
            when s.tag_set_id is null then coalesce(s.span_tags, '{}')
            else (select ts.tags from _promscale.tag_set as ts where ts.id = s.tag_set_id) || coalesce(s.span_tags, '{}')
        end
    )::ps_trace.tag_map as span_tags,
    coalesce(s.dropped_tags_count, 0) as dropped_tags_count,
    (
        select
            tstzrange(
                min(_promscale.event_time(s.start_time, e)),
                max(_promscale.event_time(s.start_time, e)),
                '[]'
            )
        from jsonb_array_elements(s.events) as e
        having count(*) > 0
    ) as event_time,
    coalesce(s.dropped_events_count, 0) as dropped_events_count,
    coalesce(s.dropped_link_count, 0) as dropped_link_count,
    s.status_code,
    s.status_message,
    -- Subqueries, because few statements ask for these, and each join takes time to plan.
    (select c.name from _promscale.scope as c where c.id = o.scope_id) as instrumentation_lib_name,
    (select c.version from _promscale.scope as c where c.id = o.scope_id) as instrumentation_lib_version,
    (select c.schema_url from _promscale.scope as c where c.id = o.scope_id) as instrumentation_lib_schema_url,
    (select r.tags from _promscale.resource as r where r.id = o.resource_id) as resource_tags,
    (
        select coalesce(r.dropped_tags_count, 0) from _promscale.resource as r where r.id = o.resource_id
    ) as resource_dropped_tags_count,
    (select r.schema_url from _promscale.resource as r where r.id = o.resource_id) as resource_schema_url,
    s.origin_id,
    o.resource_id,
    s.start_ns,
    s.tag_set_id,
    s.span_tags as own_tags,
    s.events,
    s.links
from _promscale.span as s
cross join lateral (select _promscale.end_time(s.start_time, s.start_ns, s.duration_ms)) as t (end_time)
-- Every span has its origin. An outer join is left out of a plan where none of its columns is asked for.
left join _promscale.origin as o on o.id = s.origin_id;

create or replace view ps_trace.span as
select
    s.trace_id,
    s.span_id,
    s.trace_state,
    s.parent_span_id,
    s.is_root_span,
    s.service_name,
    s.span_name,
    s.span_kind,
    s.start_time,
    s.end_time,
    s.time_range,
    s.duration_ms,
    s.span_tags,
    s.dropped_tags_count,
    s.event_time,
    s.dropped_events_count,
    s.dropped_link_count,
    s.status_code,
    s.status_message,
    s.instrumentation_lib_name,
    s.instrumentation_lib_version,
    s.instrumentation_lib_schema_url,
    s.resource_tags,
    s.resource_dropped_tags_count,
    s.resource_schema_url
from _promscale.readable_span as s;

create or replace view ps_trace.event as
select
    s.trace_id,
    s.span_id,
    _promscale.event_time(s.start_time, e) as time,
    e ->> 1 as event_name,
    coalesce(e -> 2, '{}')::ps_trace.tag_map as event_tags,
    coalesce((e ->> 3)::int, 0) as dropped_tags_count,
    s.trace_state,
    s.service_name,
    s.span_name,
    s.span_kind,
    s.start_time as span_start_time,
    s.end_time as span_end_time,
    s.time_range as span_time_range,
    s.duration_ms as span_duration_ms,
    s.span_tags,
    s.dropped_tags_count as dropped_span_tags_count,
    r.tags as resource_tags,
    coalesce(r.dropped_tags_count, 0) as resource_dropped_tags_count,
    s.status_code,
    s.status_message
from _promscale.readable_span as s
cross join lateral jsonb_array_elements(s.events) as e
left join _promscale.resource as r on r.id = s.resource_id;

create or replace view ps_trace.link as
select
    s.trace_id,
    s.span_id,
    s.trace_state,
    s.parent_span_id,
    s.is_root_span,
    s.service_name,
    s.span_name,
    s.span_kind,
    s.start_time,
    s.end_time,
    s.time_range,
    s.duration_ms,
    s.span_tags,
    s.dropped_tags_count,
    s.event_time,
    s.dropped_events_count,
    s.dropped_link_count,
    s.status_code,
    s.status_message,
    s.instrumentation_lib_name,
    s.instrumentation_lib_version,
    s.instrumentation_lib_schema_url,
    s.resource_tags,
    s.resource_dropped_tags_count,
    s.resource_schema_url,
    linked.trace_id as linked_trace_id,
    linked.span_id as linked_span_id,
    linked.trace_state as linked_trace_state,
    linked.parent_span_id as linked_parent_span_id,
    linked.is_root_span as linked_is_root_span,
    linked.service_name as linked_service_name,
    linked.span_name as linked_span_name,
    linked.span_kind as linked_span_kind,
    linked.start_time as linked_start_time,
    linked.end_time as linked_end_time,
    linked.time_range as linked_time_range,
    linked.duration_ms as linked_duration_ms,
    linked.span_tags as linked_span_tags,
    linked.dropped_tags_count as linked_dropped_tags_count,
    linked.event_time as linked_event_time,
    linked.dropped_events_count as linked_dropped_events_count,
    linked.dropped_link_count as linked_dropped_link_count,
    linked.status_code as linked_status_code,
    linked.status_message as linked_status_message,
    linked.instrumentation_lib_name as linked_inst_lib_name,
    linked.instrumentation_lib_version as linked_inst_lib_version,
    linked.instrumentation_lib_schema_url as linked_inst_lib_schema_url,
    linked.resource_tags as linked_resource_tags,
    linked.resource_dropped_tags_count as linked_resource_dropped_tags_count,
    linked.resource_schema_url as linked_resource_schema_url,
    (l.link -> 'a')::ps_trace.tag_map as link_tags,
    coalesce((l.link ->> 'd')::int, 0) as dropped_link_tags_count
from _promscale.readable_span as s
cross join lateral jsonb_array_elements(s.links) as l (link)
left join ps_trace.span as linked
    on linked.trace_id = (l.link ->> 't')::uuid and linked.span_id = _promscale.span_id_from_hex(l.link ->> 's');

create or replace view ps_trace.operation as
select id, service_name, span_kind, span_name
from _promscale.operation;

-- Promscale's private tables that public dashboards read all the same.
create view _ps_trace.operation as
select id, hashtextextended(service_name, 0) as service_name_id, span_kind, span_name
from _promscale.operation;

create view _ps_trace.tag as
select
    hashtextextended(service_name, 0) as id,
    2::smallint as tag_type, -- of a resource
    1::bigint as key_id,
    'service.name' as key,
    to_jsonb(service_name) as value
from (select distinct service_name from _promscale.operation) as service;


-- Summaries: the summarised minutes, and the others as computed from the spans now ----------------------------------

create view ps_trace.operation_minute as
with summary as (
    select m.*
    from _promscale.operation_minute as m
    where not exists (select from _promscale.touched_minute as t where t.minute = m.minute)
    union all
    -- The minute is t's and not the function's, so that a condition on it is applied before the function is called.
    select
        t.minute, m.operation_id, m.calls, m.errors, m.total_ms, m.max_ms, m.duration_buckets, m.duration_counts
    from (select distinct minute from _promscale.touched_minute) as t
    cross join lateral _promscale.operations_in(t.minute) as m
)
select
    s.minute, o.service_name, o.span_name, o.span_kind,
    s.calls, s.errors, s.total_ms, s.max_ms, s.duration_buckets, s.duration_counts
from summary as s
inner join _promscale.operation as o on o.id = s.operation_id;

create view _promscale.current_call_minute as
select m.*
from _promscale.call_minute as m
where not exists (select from _promscale.touched_minute as t where t.minute = m.minute)
union all
select t.minute, m.caller_id, m.callee_id, m.calls, m.errors, m.total_ms
from (select distinct minute from _promscale.touched_minute) as t
cross join lateral _promscale.calls_in(t.minute) as m;

create view ps_trace.call_minute as
select
    m.minute,
    caller.service_name as caller_service_name,
    caller.span_name as caller_span_name,
    caller.span_kind as caller_span_kind,
    callee.service_name as callee_service_name,
    callee.span_name as callee_span_name,
    callee.span_kind as callee_span_kind,
    m.calls,
    m.errors,
    m.total_ms
from _promscale.current_call_minute as m
inner join _promscale.operation as caller on caller.id = m.caller_id
inner join _promscale.operation as callee on callee.id = m.callee_id;

-- Calls whose callee started in the given time, its end excluded, by operation.
drop function ps_trace.operation_calls;
create function ps_trace.operation_calls(start_min timestamptz, start_max timestamptz)
returns table (parent_operation_id bigint, child_operation_id bigint, cnt bigint)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    with whole_minutes as (
        select
            case
                when isfinite($1) then _promscale.minute_of($1 + interval '1 minute' - interval '1 microsecond')
                else $1
            end as first,
            case when isfinite($2) then _promscale.minute_of($2) else $2 end as last
    ), calls as (
        select m.caller_id, m.callee_id, m.calls
        from _promscale.current_call_minute as m
        where m.minute >= (select w.first from whole_minutes as w) and m.minute < (select w.last from whole_minutes as w)
        union all
        select c.parent_operation_id, c.operation_id, 1
        from whole_minutes as w
        cross join lateral _promscale.children_in($1, least(w.first, $2)) as c
        where $1 < w.first
        union all
        select c.parent_operation_id, c.operation_id, 1
        from whole_minutes as w
        cross join lateral _promscale.children_in(greatest(w.first, w.last), $2) as c
        where greatest(w.first, w.last) < $2
    )
    select c.caller_id, c.callee_id, sum(c.calls)::bigint
    from calls as c
    where c.caller_id is not null
    group by 1, 2
$$;


-- Traces ------------------------------------------------------------------------------------------------------------
-- Arguments are of type uuid, as which a trace_id passes too: TimescaleDB's columnstore does not filter by a domain.
-- A trace's spans are read once. A span that is its own ancestor (bad data) is visited once: a path never holds an id
-- twice.

drop function ps_trace.span_tree;
drop function ps_trace.trace_tree;
drop function ps_trace.upstream_spans;
drop function ps_trace.downstream_spans;
drop function ps_trace.sibling_spans;

create function ps_trace.trace_tree(trace_id uuid)
returns table (trace_id ps_trace.trace_id, parent_span_id bigint, span_id bigint, lvl int, path bigint[])
language sql stable as $$
    with recursive spans as materialized (
        select s.parent_span_id, s.span_id
        from ps_trace.span as s
        where s.trace_id = $1
    ), tree as (
        select s.parent_span_id, s.span_id, 1 as lvl, array[s.span_id] as path
        from spans as s
        where s.parent_span_id is null
        union all
        select s.parent_span_id, s.span_id, t.lvl + 1, t.path || s.span_id
        from tree as t
        inner join spans as s on s.parent_span_id = t.span_id
        where s.span_id <> all (t.path)
    )
    select $1::ps_trace.trace_id, t.parent_span_id, t.span_id, t.lvl, t.path
    from tree as t
$$;

create function ps_trace.upstream_spans(trace_id uuid, span_id bigint, max_dist int default null)
returns table (trace_id ps_trace.trace_id, parent_span_id bigint, span_id bigint, dist int, path bigint[])
language sql stable as $$
    with recursive spans as materialized (
        select s.parent_span_id, s.span_id
        from ps_trace.span as s
        where s.trace_id = $1
    ), up as (
        select s.parent_span_id, s.span_id, 0 as dist, array[s.span_id] as path
        from spans as s
        where s.span_id = $2
        union all
        select s.parent_span_id, s.span_id, u.dist + 1, s.span_id || u.path
        from up as u
        inner join spans as s on s.span_id = u.parent_span_id
        where s.span_id <> all (u.path) and ($3 is null or u.dist < $3)
    )
    select $1::ps_trace.trace_id, u.parent_span_id, u.span_id, u.dist, u.path
    from up as u
$$;

create function ps_trace.downstream_spans(trace_id uuid, span_id bigint, max_dist int default null)
returns table (trace_id ps_trace.trace_id, parent_span_id bigint, span_id bigint, dist int, path bigint[])
language sql stable as $$
    with recursive spans as materialized (
        select s.parent_span_id, s.span_id
        from ps_trace.span as s
        where s.trace_id = $1
    ), down as (
        select s.parent_span_id, s.span_id, 0 as dist, array[s.span_id] as path
        from spans as s
        where s.span_id = $2
        union all
        select s.parent_span_id, s.span_id, d.dist + 1, d.path || s.span_id
        from down as d
        inner join spans as s on s.parent_span_id = d.span_id
        where s.span_id <> all (d.path) and ($3 is null or d.dist < $3)
    )
    select $1::ps_trace.trace_id, d.parent_span_id, d.span_id, d.dist, d.path
    from down as d
$$;

create function ps_trace.sibling_spans(trace_id uuid, span_id bigint)
returns table (trace_id ps_trace.trace_id, parent_span_id bigint, span_id bigint)
language sql stable as $$
    with spans as materialized (
        select s.parent_span_id, s.span_id
        from ps_trace.span as s
        where s.trace_id = $1
    )
    select $1::ps_trace.trace_id, s.parent_span_id, s.span_id
    from spans as s
    where exists (
        select
        from spans as self
        where self.span_id = $2 and self.parent_span_id is not distinct from s.parent_span_id
    )
$$;

create function ps_trace.span_tree(trace_id uuid, span_id bigint, max_dist int default null)
returns table (
    trace_id ps_trace.trace_id, parent_span_id bigint, span_id bigint,
    dist int, is_upstream boolean, is_downstream boolean, path bigint[]
)
language sql stable as $$
    select u.trace_id, u.parent_span_id, u.span_id, u.dist, u.dist > 0, false, u.path
    from ps_trace.upstream_spans($1, $2, $3) as u
    union all
    select d.trace_id, d.parent_span_id, d.span_id, d.dist, false, true, d.path
    from ps_trace.downstream_spans($1, $2, $3) as d
    where d.dist > 0
$$;


-- What Jaeger's reads need besides ----------------------------------------------------------------------------------

drop view ps_trace.jaeger_traces_data, ps_trace.jaeger_span, ps_trace.jaeger_resource, ps_trace.jaeger_scope;

create view ps_trace.jaeger_traces_data as
select trace_id, data
from _promscale.traces_data;

create view ps_trace.jaeger_dictionary as
select id, data
from _promscale.dictionary;

create view ps_trace.jaeger_span as
select
    s.trace_id::uuid as trace_id,
    s.span_id,
    s.parent_span_id,
    s.start_time,
    n.start_unix_nano,
    n.start_unix_nano + round((s.duration_ms * 1000000)::numeric) as end_unix_nano,
    s.duration_ms,
    s.service_name,
    s.span_name,
    s.status_code,
    s.status_message,
    s.origin_id,
    s.tag_set_id,
    s.own_tags,
    s.events,
    s.links
from _promscale.readable_span as s
cross join lateral (
    select (extract(epoch from s.start_time) * 1000000)::bigint * 1000::numeric + s.start_ns as start_unix_nano
) as n;

create view ps_trace.jaeger_tag_set as
select id, tags
from _promscale.tag_set;

create view ps_trace.jaeger_origin as
select
    o.id, o.service_name, o.span_name, o.span_kind,
    r.tags as resource_tags, c.tags as scope_tags, c.name as scope_name, c.version as scope_version
from _promscale.origin as o
inner join _promscale.resource as r on r.id = o.resource_id
inner join _promscale.scope as c on c.id = o.scope_id;

-- The times in which there may be spans of these origins (null: any), at least so long (null: of any duration), with all
-- of these attributes: [[key, [value, or another, ...]], ...]. Both ends are included; the latest comes first.
create function ps_trace.jaeger_times(
    start_min timestamptz, start_max timestamptz, origin_ids bigint[], duration_min double precision, attributes jsonb
)
returns table (starts timestamptz, ends timestamptz)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    with minutes as (
        select m.minute, m.longest_ms, m.longest_starts
        from _promscale.minute as m
        where m.minute > $1 - interval '1 minute' and m.minute <= $2
            and ($3 is null or m.origin_ids && $3)
            and ($4 is null or m.longest_ms[1] >= $4)
            and not exists (select from _promscale.touched_minute as t where t.minute = m.minute)
            and not exists (
                select
                from jsonb_array_elements($5) as attribute
                where not exists (
                    select
                    from jsonb_array_elements(attribute -> 1) as value
                    where _promscale.may_have_attribute(
                        m.attribute_filter, _promscale.attribute_hash(attribute ->> 0, value)
                    )
                )
            )
        union all
        select distinct t.minute, '{}'::double precision[], '{}'::timestamptz[]
        from _promscale.touched_minute as t
        where t.minute > $1 - interval '1 minute' and t.minute <= $2
    ), times as (
        -- Of a minute whose shortest of the longest spans is too short, only these spans' own times.
        select l.starts, l.starts as ends
        from minutes as m
        cross join lateral unnest(m.longest_ms, m.longest_starts) as l (ms, starts)
        where (m.longest_ms)[cardinality(m.longest_ms)] < $4 and l.ms >= $4
        union
        select m.minute, m.minute + interval '1 minute' - interval '1 microsecond'
        from minutes as m
        where ((m.longest_ms)[cardinality(m.longest_ms)] < $4) is not true
    )
    select greatest(t.starts, $1), least(t.ends, $2)
    from times as t
    where t.starts <= $2 and t.ends >= $1
    order by t.starts desc
$$;
