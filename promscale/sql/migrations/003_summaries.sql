-- Summaries per minute. A writer records the minutes that its spans start in, in its own transaction (touched_minute).
-- Upkeep computes a minute's summary from all of its spans and removes those records that the summary includes. So a
-- minute without such a record has an exact summary, for any snapshot, and of the others the views ask the spans.

create table _promscale.touched_minute (
    id bigint generated always as identity primary key,
    minute timestamptz not null,
    touched_at timestamptz not null default clock_timestamp()
);
create index touched_minute_minute on _promscale.touched_minute (minute);
-- Rows come and go as in a queue.
alter table _promscale.touched_minute set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- What a summarised minute has.
create table _promscale.minute (
    minute timestamptz primary key,
    spans bigint not null,
    origin_ids bigint[] not null,
    -- Durations and starts of its 20 longest spans, or of all if there are fewer, the longest first.
    longest_ms double precision[] not null,
    longest_starts timestamptz[] not null,
    -- When the first and the last of its spans' parents start: the minute is touched when spans of between are deleted.
    parents_from timestamptz,
    parents_until timestamptz,
    -- A Bloom filter of its spans' attributes, 2^n bits, made by promscale/upkeep.py; null: there may be any attribute.
    attribute_filter bytea
);
-- One byte of a filter is then read without the rest of it.
alter table _promscale.minute alter column attribute_filter set storage external;

create table _promscale.operation_minute (
    minute timestamptz not null,
    operation_id bigint not null,
    calls bigint not null,
    errors bigint not null,
    total_ms double precision not null,
    max_ms double precision not null,
    -- How many calls took from 10^(n/10) ms to 10^((n+1)/10): n in duration_buckets, the calls in duration_counts.
    duration_buckets smallint[] not null,
    duration_counts bigint[] not null,
    primary key (minute, operation_id)
);

-- A call is a span, the callee, whose parent, the caller, is stored. The minute is the callee's.
create table _promscale.call_minute (
    minute timestamptz not null,
    caller_id bigint not null, -- operations
    callee_id bigint not null,
    calls bigint not null,
    errors bigint not null,
    total_ms double precision not null,
    primary key (minute, caller_id, callee_id)
);

-- The first kept_traces() traces with calls of an operation in a minute, in the order of uuid_hash_extended, which is as
-- good as random and always the same.
create table _promscale.operation_trace (
    minute timestamptz not null,
    operation_id bigint not null,
    trace_ids uuid[] not null,
    primary key (minute, operation_id)
);

create function _promscale.kept_traces() returns int
language sql immutable parallel safe
return 20;

-- Parents that were not stored when the minute of the child was summarised. A writer that stores such a parent later also
-- records the minute of the child in touched_minute, which invalidates its summary.
create table _promscale.missing_parent (
    trace_id uuid not null,
    parent_span_id bigint not null,
    minute timestamptz not null,
    primary key (trace_id, parent_span_id, minute)
);
create index missing_parent_minute on _promscale.missing_parent (minute);


create function _promscale.minute_of(t timestamptz) returns timestamptz
language sql immutable strict parallel safe
return date_bin('1 minute', t, timestamptz '2000-01-01 00:00:00+00');

-- The rows of operation_minute, computed from the spans of one minute.
create function _promscale.operations_in(asked timestamptz) returns setof _promscale.operation_minute
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
    -- Constants let the planner leave out other partitions.
    ends constant timestamptz := asked + interval '1 minute';
begin
    return query
    with buckets as (
        select
            o.operation_id,
            floor(10 * log(greatest(s.duration_ms, 0.001)))::smallint as bucket,
            count(*) as calls,
            count(*) filter (where s.status_code = 'error') as errors,
            sum(s.duration_ms) as total_ms,
            max(s.duration_ms) as max_ms
        from _promscale.span as s
        inner join _promscale.origin as o on o.id = s.origin_id
        where s.start_time >= asked and s.start_time < ends
        group by 1, 2
    )
    select
        asked, b.operation_id, sum(b.calls)::bigint, sum(b.errors)::bigint, sum(b.total_ms), max(b.max_ms),
        array_agg(b.bucket order by b.bucket), array_agg(b.calls order by b.bucket)
    from buckets as b
    group by b.operation_id;
end $$;

-- Each span that starts in this time and has a parent, with its parent's operation and start, or nulls where the parent
-- is not stored.
create function _promscale.children_in(starts timestamptz, ends timestamptz)
returns table (
    trace_id uuid, parent_span_id bigint, operation_id bigint, parent_operation_id bigint, parent_start_time timestamptz,
    failed boolean, duration_ms double precision
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
    near_starts constant timestamptz := starts - interval '1 minute';
begin
    -- Most parents start within a minute of their children: one hash join finds them. The others are looked up one by
    -- one, by trace id.
    return query
    with near as materialized (
        select s.trace_id, s.span_id, s.origin_id, s.start_time
        from _promscale.span as s
        where s.start_time >= near_starts and s.start_time < ends
    ), children as materialized (
        select
            s.trace_id, s.parent_span_id, s.origin_id,
            near.origin_id as parent_origin_id, near.start_time as parent_start_time,
            s.status_code = 'error' as failed, s.duration_ms
        from _promscale.span as s
        left join near on near.trace_id = s.trace_id and near.span_id = s.parent_span_id
        where s.start_time >= starts and s.start_time < ends
            and s.parent_span_id is not null
    ), all_children as (
        select * from children where parent_origin_id is not null
        union all
        select c.trace_id, c.parent_span_id, c.origin_id, far.origin_id, far.start_time, c.failed, c.duration_ms
        from children as c
        left join lateral (
            select p.origin_id, p.start_time
            from _promscale.span as p
            where p.trace_id = c.trace_id and p.span_id = c.parent_span_id
        ) as far on true
        where c.parent_origin_id is null
    )
    select
        a.trace_id, a.parent_span_id, child.operation_id, parent.operation_id, a.parent_start_time,
        a.failed, a.duration_ms
    from all_children as a
    inner join _promscale.origin as child on child.id = a.origin_id
    left join _promscale.origin as parent on parent.id = a.parent_origin_id;
end $$;

-- The rows of call_minute, computed from the spans of one minute.
create function _promscale.calls_in(asked timestamptz) returns setof _promscale.call_minute
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select
        asked, c.parent_operation_id, c.operation_id,
        count(*), count(*) filter (where c.failed), sum(c.duration_ms)
    from _promscale.children_in(asked, asked + interval '1 minute') as c
    where c.parent_operation_id is not null
    group by 2, 3
$$;

-- The key of a lock: writers share it from looking for missing parents to their end; a summary is alone with it from
-- looking whether parents have come to its end. So one of the two sees what the other has written.
create function _promscale.summary_lock() returns bigint
language sql immutable parallel safe
return hashtextextended('_promscale.summary', 0);

-- A writer's last statement, after its spans: records their minutes (since 1970), and those of children whose missing
-- parents are among them. closed_until: seconds since 1970.
create function _promscale.touch_minutes(minutes bigint[], trace_ids uuid[])
returns table (generation uuid, closed_until double precision)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_advisory_xact_lock_shared(_promscale.summary_lock());
    insert into _promscale.touched_minute (minute)
    select timestamptz 'epoch' + m * interval '1 minute' from unnest(minutes) as m;
    if exists (select from _promscale.missing_parent as missing where missing.trace_id = any(trace_ids)) then
        insert into _promscale.touched_minute (minute)
        select distinct missing.minute
        from _promscale.missing_parent as missing
        inner join _promscale.span as s on s.trace_id = missing.trace_id and s.span_id = missing.parent_span_id
        where missing.trace_id = any(trace_ids);
    end if;
    return query
    select s.generation, extract(epoch from s.closed_until)::double precision from _promscale.store as s;
end $$;

-- Computes a minute's summary. Before its transaction asked for anything else, the caller has read which records of
-- touched_minute there are for the minute: these go.
create function _promscale.summarise(asked timestamptz, touched_ids bigint[], attribute_filter bytea) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
as $$
declare
    ends constant timestamptz := asked + interval '1 minute';
begin
    delete from _promscale.minute as m where m.minute = asked;
    delete from _promscale.operation_minute as m where m.minute = asked;
    delete from _promscale.operation_trace as t where t.minute = asked;
    delete from _promscale.call_minute as m where m.minute = asked;
    delete from _promscale.missing_parent as m where m.minute = asked;
    insert into _promscale.operation_minute select * from _promscale.operations_in(asked);
    insert into _promscale.operation_trace (minute, operation_id, trace_ids)
    select asked, t.operation_id, array_agg(t.trace_id order by t.row_number)
    from (
        select
            o.operation_id, s.trace_id,
            row_number() over (partition by o.operation_id order by uuid_hash_extended(s.trace_id, 0), s.trace_id)
        from _promscale.span as s
        inner join _promscale.origin as o on o.id = s.origin_id
        where s.start_time >= asked and s.start_time < ends
        group by o.operation_id, s.trace_id
    ) as t
    where t.row_number <= _promscale.kept_traces()
    group by t.operation_id;
    with children as materialized (
        select * from _promscale.children_in(asked, ends)
    ), missing as (
        insert into _promscale.missing_parent (trace_id, parent_span_id, minute)
        select distinct c.trace_id, c.parent_span_id, asked
        from children as c
        where c.parent_operation_id is null
    ), calls as (
        insert into _promscale.call_minute
        select
            asked, c.parent_operation_id, c.operation_id,
            count(*), count(*) filter (where c.failed), sum(c.duration_ms)
        from children as c
        where c.parent_operation_id is not null
        group by 2, 3
    )
    insert into _promscale.minute (
        minute, spans, origin_ids, longest_ms, longest_starts, parents_from, parents_until, attribute_filter
    )
    select
        asked, a.spans, a.origin_ids, l.longest_ms, l.longest_starts, p.parents_from, p.parents_until, attribute_filter
    from (
        select count(*) as spans, array_agg(distinct s.origin_id) as origin_ids
        from _promscale.span as s
        where s.start_time >= asked and s.start_time < ends
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
        select min(c.parent_start_time) as parents_from, max(c.parent_start_time) as parents_until
        from children as c
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

-- The hash of an attribute in a minute's filter. Values that are equal as jsonb (1 and 1.0) have the same.
create function _promscale.attribute_hash(key text, value jsonb) returns bigint
language sql immutable strict parallel safe
return jsonb_hash_extended(value, hashtextextended(key, 0));

-- Whether a minute may have an attribute with that hash. The bits are those of promscale/upkeep.py.
create function _promscale.may_have_attribute(attribute_filter bytea, hash bigint) returns boolean
language sql immutable parallel safe
return attribute_filter is null or not exists (
    select
    from generate_series(0, 5) as n
    cross join lateral (
        select ((hash & 4294967295) + n * ((hash >> 32 & 4294967295) | 1)) % (8 * octet_length(attribute_filter)) as bit
    ) as b
    where get_byte(substring(attribute_filter from (bit / 8)::int + 1 for 1), 0) >> (bit % 8)::int & 1 = 0
);

-- Hashes of all attributes of a minute's spans, wherever Jaeger's search looks for them.
create function _promscale.attribute_hashes(asked timestamptz) returns setof bigint
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
    ends constant timestamptz := asked + interval '1 minute';
begin
    return query
    with spans as materialized (
        select s.origin_id, s.tag_set_id, s.span_tags, s.events, s.links
        from _promscale.span as s
        where s.start_time >= asked and s.start_time < ends
    ), origins as (
        select o.resource_id, o.scope_id
        from _promscale.origin as o
        where o.id in (select s.origin_id from spans as s)
    ), attributes as (
        select s.span_tags as tags from spans as s
        union all
        select t.tags from _promscale.tag_set as t where t.id in (select s.tag_set_id from spans as s)
        union all
        select event -> 2 from spans as s cross join lateral jsonb_array_elements(s.events) as event
        union all
        select link -> 'a' from spans as s cross join lateral jsonb_array_elements(s.links) as link
        union all
        select r.tags from _promscale.resource as r where r.id in (select o.resource_id from origins as o)
        union all
        select c.tags from _promscale.scope as c where c.id in (select o.scope_id from origins as o)
    )
    select distinct _promscale.attribute_hash(each.key, each.value)
    from attributes as a
    cross join lateral jsonb_each(a.tags) as each;
end $$;

-- Forgets the summaries of a time whose spans are gone. Touches the minutes at its ends, which may still have others, and
-- those with children of the spans that are gone.
create function _promscale.forget_minutes(starts timestamptz, ends timestamptz) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    first constant timestamptz := _promscale.minute_of(starts);
begin
    delete from _promscale.minute where minute >= first and minute < ends;
    delete from _promscale.operation_minute where minute >= first and minute < ends;
    delete from _promscale.operation_trace where minute >= first and minute < ends;
    delete from _promscale.call_minute where minute >= first and minute < ends;
    delete from _promscale.missing_parent where minute >= first and minute < ends;
    insert into _promscale.touched_minute (minute)
    select first
    union
    select _promscale.minute_of(ends)
    union
    select m.minute from _promscale.minute as m where m.parents_from < ends and m.parents_until >= starts;
end $$;
