-- The same summaries of a minute with half of the work: spans are grouped by their origins, which are few, before these
-- are joined, and the parents of other minutes are looked for trace by trace. Without index scans, which read a page of
-- spans again for each of its spans; bitmap scans and sequential scans read it once.

create or replace function _promscale.operations_in(asked timestamptz) returns setof _promscale.operation_minute
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan set enable_indexscan = off
as $$
declare
    -- Constants let the planner leave out other partitions.
    ends constant timestamptz := asked + interval '1 minute';
begin
    return query
    with origins as materialized (
        select
            s.origin_id,
            floor(10 * log(greatest(s.duration_ms, 0.001)))::smallint as bucket,
            count(*) as calls,
            count(*) filter (where s.status_code = 'error') as errors,
            sum(s.duration_ms) as total_ms,
            max(s.duration_ms) as max_ms
        from _promscale.span as s
        where s.start_time >= asked and s.start_time < ends
        group by 1, 2
    ), buckets as (
        select
            o.operation_id, s.bucket,
            sum(s.calls)::bigint as calls, sum(s.errors) as errors, sum(s.total_ms) as total_ms, max(s.max_ms) as max_ms
        from origins as s
        inner join _promscale.origin as o on o.id = s.origin_id
        group by 1, 2
    )
    select
        asked, b.operation_id, sum(b.calls)::bigint, sum(b.errors)::bigint, sum(b.total_ms), max(b.max_ms),
        array_agg(b.bucket order by b.bucket), array_agg(b.calls order by b.bucket)
    from buckets as b
    group by b.operation_id;
end $$;

-- The spans that start in this time and have a parent, grouped by their operation and their parent's. Where the parent
-- is not stored, its operation is null, and the spans are grouped by their trace and their parent's id. The same group
-- may come several times.
create function _promscale.calls_by_operation(starts timestamptz, ends timestamptz)
returns table (
    operation_id bigint, parent_operation_id bigint, trace_id uuid, parent_span_id bigint,
    calls bigint, errors bigint, total_ms double precision, parents_from timestamptz, parents_until timestamptz
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan set enable_indexscan = off
as $$
begin
    -- Most parents start in the same time: one hash join finds them.
    return query
    with same_time as materialized (
        select
            s.origin_id,
            p.origin_id as parent_origin_id,
            case when p.origin_id is null then s.trace_id end as trace_id,
            case when p.origin_id is null then s.parent_span_id end as parent_span_id,
            count(*) as calls,
            count(*) filter (where s.status_code = 'error') as errors,
            sum(s.duration_ms) as total_ms,
            min(p.start_time) as parents_from,
            max(p.start_time) as parents_until
        from _promscale.span as s
        left join _promscale.span as p
            on p.trace_id = s.trace_id and p.span_id = s.parent_span_id
            and p.start_time >= starts and p.start_time < ends
        where s.start_time >= starts and s.start_time < ends and s.parent_span_id is not null
        group by 1, 2, 3, 4
    ), other_parents as materialized (
        select p.*
        from (select distinct m.trace_id from same_time as m where m.parent_origin_id is null) as t
        cross join lateral (
            select s.trace_id, s.span_id, s.origin_id, s.start_time
            from _promscale.span as s
            where s.trace_id = t.trace_id
            offset 0 -- keeps the planner from reading all spans for a join
        ) as p
    ), calls as (
        select * from same_time as m where m.parent_origin_id is not null
        union all
        select
            m.origin_id,
            p.origin_id,
            case when p.origin_id is null then m.trace_id end,
            case when p.origin_id is null then m.parent_span_id end,
            m.calls, m.errors, m.total_ms, p.start_time, p.start_time
        from same_time as m
        left join other_parents as p on p.trace_id = m.trace_id and p.span_id = m.parent_span_id
        where m.parent_origin_id is null
    )
    select
        child.operation_id, parent.operation_id, c.trace_id, c.parent_span_id,
        c.calls, c.errors, c.total_ms, c.parents_from, c.parents_until
    from calls as c
    inner join _promscale.origin as child on child.id = c.origin_id
    left join _promscale.origin as parent on parent.id = c.parent_origin_id;
end $$;

create or replace function _promscale.calls_in(asked timestamptz) returns setof _promscale.call_minute
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select
        asked, c.parent_operation_id, c.operation_id,
        sum(c.calls)::bigint, sum(c.errors)::bigint, sum(c.total_ms)
    from _promscale.calls_by_operation(asked, asked + interval '1 minute') as c
    where c.parent_operation_id is not null
    group by 2, 3
$$;

-- Calls whose callee started in the given time, its end excluded, by operation.
create or replace function ps_trace.operation_calls(start_min timestamptz, start_max timestamptz)
returns table (parent_operation_id bigint, child_operation_id bigint, cnt bigint)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    with whole_minutes as (
        select
            case
                when isfinite($1) then _promscale.minute_of($1 + interval '1 minute' - interval '1 microsecond')
                else $1
            end as first,
            case when isfinite($2) then _promscale.minute_of($2) else $2 end as last
    ), parts_of_minutes (starts, ends) as (
        select $1, least(w.first, $2) from whole_minutes as w where $1 < w.first
        union all
        select greatest(w.first, w.last), $2 from whole_minutes as w where greatest(w.first, w.last) < $2
    ), calls as (
        select m.caller_id, m.callee_id, m.calls
        from _promscale.current_call_minute as m
        where m.minute >= (select w.first from whole_minutes as w) and m.minute < (select w.last from whole_minutes as w)
        union all
        select c.parent_operation_id, c.operation_id, c.calls
        from parts_of_minutes as p
        cross join lateral _promscale.calls_by_operation(p.starts, p.ends) as c
        where c.parent_operation_id is not null
    )
    select c.caller_id, c.callee_id, sum(c.calls)::bigint
    from calls as c
    group by 1, 2
$$;

-- Computes a minute's summary. Before its transaction asked for anything else, the caller has read which records of
-- touched_minute there are for the minute: these go.
create or replace function _promscale.summarise(asked timestamptz, touched_ids bigint[], attribute_filter bytea)
returns void
language plpgsql set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan set enable_indexscan = off
as $$
declare
    ends constant timestamptz := asked + interval '1 minute';
    remaining_origins bigint[];
    last_hash bigint;
begin
    delete from _promscale.minute as m where m.minute = asked;
    delete from _promscale.operation_minute as m where m.minute = asked;
    delete from _promscale.operation_trace as t where t.minute = asked;
    delete from _promscale.call_minute as m where m.minute = asked;
    delete from _promscale.missing_parent as m where m.minute = asked;
    insert into _promscale.operation_minute select * from _promscale.operations_in(asked);
    -- Most operations have enough traces among the first 64th by the hash; only of the others all traces are compared.
    foreach last_hash in array array[-(2 ^ 63 - 2 ^ 58)::bigint, null] loop
        remaining_origins := array(
            select o.id
            from _promscale.operation_minute as m
            inner join _promscale.origin as o on o.operation_id = m.operation_id
            where m.minute = asked and not exists (
                select from _promscale.operation_trace as t where t.minute = asked and t.operation_id = m.operation_id
            )
        );
        exit when remaining_origins = '{}';
        insert into _promscale.operation_trace (minute, operation_id, trace_ids)
        select asked, t.operation_id, array_agg(t.trace_id order by t.row_number)
        from (
            select
                o.operation_id, s.trace_id,
                row_number() over (partition by o.operation_id order by uuid_hash_extended(s.trace_id, 0), s.trace_id)
            from _promscale.span as s
            inner join _promscale.origin as o on o.id = s.origin_id
            where s.start_time >= asked and s.start_time < ends
                and s.origin_id = any(remaining_origins)
                and (last_hash is null or uuid_hash_extended(s.trace_id, 0) <= last_hash)
            group by o.operation_id, s.trace_id
        ) as t
        where t.row_number <= _promscale.kept_traces()
        group by t.operation_id
        having last_hash is null or count(*) = _promscale.kept_traces();
    end loop;
    with calls as materialized (
        select * from _promscale.calls_by_operation(asked, ends)
    ), missing as (
        insert into _promscale.missing_parent (trace_id, parent_span_id, minute)
        select distinct c.trace_id, c.parent_span_id, asked
        from calls as c
        where c.parent_operation_id is null
    ), call_minutes as (
        insert into _promscale.call_minute
        select
            asked, c.parent_operation_id, c.operation_id,
            sum(c.calls)::bigint, sum(c.errors)::bigint, sum(c.total_ms)
        from calls as c
        where c.parent_operation_id is not null
        group by 2, 3
    )
    insert into _promscale.minute (
        minute, spans, origin_ids, tag_set_ids, longest_ms, longest_starts, parents_from, parents_until, attribute_filter
    )
    select
        asked, a.spans, a.origin_ids, a.tag_set_ids, l.longest_ms, l.longest_starts, p.parents_from, p.parents_until,
        attribute_filter
    from (
        select
            sum(s.spans) as spans,
            array_agg(distinct s.origin_id) as origin_ids,
            array_agg(distinct s.tag_set_id) filter (where s.tag_set_id is not null) as tag_set_ids
        from (
            select s.origin_id, s.tag_set_id, count(*) as spans
            from _promscale.span as s
            where s.start_time >= asked and s.start_time < ends
            group by s.origin_id, s.tag_set_id
        ) as s
    ) as a
    cross join (
        select array_agg(l.duration_ms) as longest_ms, array_agg(l.start_time) as longest_starts
        from (
            select s.duration_ms, s.start_time
            from _promscale.span as s
            where s.start_time >= asked and s.start_time < ends
            order by s.duration_ms desc
            limit 20
        ) as l
    ) as l
    cross join (
        select min(c.parents_from) as parents_from, max(c.parents_until) as parents_until
        from calls as c
    ) as p
    where a.spans > 0;

    perform pg_advisory_xact_lock(_promscale.summary_lock());
    -- Where a parent has come since, the minute stays touched, and its turn comes again.
    if not exists (
        select
        from _promscale.missing_parent as missing
        inner join _promscale.span as s on s.trace_id = missing.trace_id and s.span_id = missing.parent_span_id
        where missing.minute = asked
    ) then
        delete from _promscale.touched_minute where id = any(touched_ids);
    end if;
end $$;

drop function _promscale.children_in;

-- Hashes of all attributes of a minute's spans. Most spans share their attributes with others, so that these are told
-- apart as wholes before they are taken apart. Without sorting, because the planner, which cannot know how many
-- different values there are, would sort all of them.
create or replace function _promscale.attribute_hashes(asked timestamptz) returns setof bigint
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan set enable_indexscan = off set enable_sort = off
as $$
declare
    ends constant timestamptz := asked + interval '1 minute';
begin
    return query
    with spans as materialized (
        select
            s.origin_id,
            s.tag_set_id,
            s.span_tags,
            coalesce(jsonb_path_query_array(s.events, '$[*][2]'), '[]') as tags_of_events,
            coalesce(jsonb_path_query_array(s.links, '$[*].a'), '[]') as tags_of_links
        from _promscale.span as s
        where s.start_time >= asked and s.start_time < ends
        group by 1, 2, 3, 4, 5
    ), origins as (
        select o.resource_id, o.scope_id
        from _promscale.origin as o
        where o.id in (select s.origin_id from spans as s)
    ), attributes (tags) as (
        select s.span_tags from spans as s where s.span_tags is not null group by s.span_tags
        union all
        select jsonb_array_elements(s.tags_of_events) from spans as s group by s.tags_of_events
        union all
        select jsonb_array_elements(s.tags_of_links) from spans as s group by s.tags_of_links
        union all
        select t.tags from _promscale.tag_set as t where t.id in (select s.tag_set_id from spans as s)
        union all
        select r.tags from _promscale.resource as r where r.id in (select o.resource_id from origins as o)
        union all
        select c.tags from _promscale.scope as c where c.id in (select o.scope_id from origins as o)
    )
    select _promscale.attribute_hash(each.key, each.value) as hash
    from attributes as a
    cross join lateral jsonb_each(a.tags) as each
    group by hash;
end $$;

revoke execute on function _promscale.calls_by_operation from public;
grant execute on function _promscale.calls_by_operation to prom_writer;
