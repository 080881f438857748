-- Less work and fewer bytes for each new span. Tag sets are used from a span's arrival on, and no longer from the
-- closing of its partition only; and one index serves both the spans of a trace and the children of a span.

drop index _promscale.span_trace_id;
drop index _promscale.span_parent_span_id;
-- Spans of a trace arrive together, so that they go to the same page of this index. In an index of parents alone, whose
-- ids are random, each would go to another page, which each checkpoint makes the write-ahead log hold again.
create index span_trace_id on _promscale.span (trace_id, parent_span_id);

-- A current tag set is the one that new spans of its origin get if they have all of its attributes.
alter table _promscale.tag_set add column current boolean not null default false;

-- The version changes when other tag sets become current or some are deleted. What a writer has encoded is valid if it
-- used the tag sets of this version or of one since the last deletion.
alter table _promscale.store
add column tag_sets_version bigint not null default 0,
add column tag_sets_valid_since bigint not null default 0;

-- The tag sets that a minute's spans have. Closing a partition adds those in partition.tag_set_ids.
alter table _promscale.minute add column tag_set_ids int[];


-- Choosing ----------------------------------------------------------------------------------------------------------

-- Where at least nine in ten of an origin's spans have the same value of an attribute, that belongs to the origin's tag
-- set. `sample` is a query for the origin and the attributes of some spans. Arrays and objects are left out: @> finds a
-- part of them, too. Inserts the tag sets that do not exist yet.
create function _promscale.choose_tag_sets(sample text)
returns table (origin_id bigint, tags jsonb, keys text[], tag_set_id int)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    return query execute format(
        $statement$
        with sample (origin_id, tags) as materialized (
            %s
        ), origins as (
            select s.origin_id, count(*) as spans from sample as s group by s.origin_id having count(*) >= 10
        ), frequent as (
            select s.origin_id, tag.key, tag.value
            from sample as s
            cross join lateral jsonb_each(s.tags) as tag
            inner join origins as o on o.origin_id = s.origin_id
            where jsonb_typeof(tag.value) not in ('array', 'object')
            group by s.origin_id, tag.key, tag.value, o.spans
            having count(*) >= 0.9 * o.spans
        ), chosen as materialized (
            select f.origin_id, jsonb_object_agg(f.key, f.value) as tags, array_agg(f.key) as keys
            from frequent as f
            group by f.origin_id
        ), inserted as (
            insert into _promscale.tag_set (origin_id, tags)
            select c.origin_id, c.tags
            from chosen as c
            where not exists (
                select from _promscale.tag_set as t where t.origin_id = c.origin_id and t.tags = c.tags
            )
            returning tag_set.id, tag_set.origin_id, tag_set.tags
        )
        -- The cast is for TimescaleDB, on which the column is of a domain.
        select c.origin_id::bigint, c.tags, c.keys, t.id
        from chosen as c
        inner join (
            select i.id, i.origin_id, i.tags from inserted as i
            union all
            select t.id, t.origin_id, t.tags from _promscale.tag_set as t
        ) as t on t.origin_id = c.origin_id and t.tags = c.tags
        $statement$,
        sample
    );
end $$;

-- Chooses the current tag sets of the origins among 5,000 new spans. Other origins keep theirs. Not the newest spans of
-- all, because these are of the operations that traces end with.
create function _promscale.choose_current_tag_sets() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    origin_ids bigint[];
    ids int[];
begin
    select array_agg(c.origin_id), array_agg(c.tag_set_id) into origin_ids, ids
    from _promscale.choose_tag_sets(
        $sample$
        select
            s.origin_id,
            coalesce((select t.tags from _promscale.tag_set as t where t.id = s.tag_set_id), '{}')
                || coalesce(s.span_tags, '{}')
        from _promscale.span as s
        where s.start_time > now() - interval '1 minute' and s.start_time <= now() - interval '3 seconds'
        order by s.start_time desc
        limit 5000
        $sample$
    ) as c;
    update _promscale.tag_set as t
    set current = t.id = any(ids)
    where t.origin_id = any(origin_ids) and t.current <> (t.id = any(ids));
    if found then
        update _promscale.store set tag_sets_version = tag_sets_version + 1;
    end if;
end $$;

-- A writer's last statement, after its spans: records their minutes (since 1970), and those of children whose missing
-- parents are among them. closed_until: seconds since 1970.
drop function _promscale.touch_minutes;
create function _promscale.touch_minutes(minutes bigint[], trace_ids uuid[])
returns table (
    generation uuid, closed_until double precision, tag_sets_version bigint, tag_sets_valid_since bigint
)
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
    select
        s.generation, extract(epoch from s.closed_until)::double precision, s.tag_sets_version, s.tag_sets_valid_since
    from _promscale.store as s;
end $$;


-- Closing -----------------------------------------------------------------------------------------------------------

-- Writes a partition's spans densely into the table closing_span_<name>. Spans that have no tag set yet get one.
-- Returns how many spans there are.
create or replace function _promscale.copy_spans_densely(partition_name text) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    source constant text := format('_promscale.%I', 'span_' || partition_name);
    target constant text := format('_promscale.%I', 'closing_span_' || partition_name);
    sample_percent double precision;
    spans bigint;
begin
    if _promscale.is_timescaledb() then
        perform _promscale.compress_chunks(partition_name);
        return 0;
    end if;
    -- About 20,000 rows tell what is frequent; a page has some twenty.
    select least(100, 100 * 1000 / greatest(pg_relation_size(source) / 8192, 1)) into sample_percent;
    create temporary table chosen on commit drop as
    select *
    from _promscale.choose_tag_sets(
        format(
            'select s.origin_id, s.span_tags from %s as s tablesample system (%s) where s.tag_set_id is null',
            source, sample_percent
        )
    );
    update _promscale.partition as p
    set tag_set_ids = (select array_agg(c.tag_set_id) from pg_temp.chosen as c)
    where p.name = partition_name;
    execute format(
        $statement$
        insert into %s
        select
            s.trace_id, s.span_id, s.start_time, s.duration_ms, s.parent_span_id, s.origin_id,
            coalesce(s.tag_set_id, c.tag_set_id),
            s.status_code, s.start_ns, s.dropped_tags_count, s.dropped_events_count, s.dropped_link_count,
            s.trace_state, s.status_message,
            case when c.tag_set_id is null then s.span_tags else nullif(s.span_tags - c.keys, '{}') end,
            s.events, s.links
        from %s as s
        left join pg_temp.chosen as c
            on c.origin_id = s.origin_id and s.tag_set_id is null and s.span_tags @> c.tags
        $statement$,
        target, source
    );
    get diagnostics spans = row_count;
    -- Full pages, because late spans are rare.
    execute format('create index on %s (trace_id, parent_span_id) with (fillfactor = 100)', target);
    execute format('create index on %s (start_time) with (fillfactor = 100)', target);
    execute format(
        'create index on %s (start_time) include (duration_ms, origin_id) with (fillfactor = 100)'
        ' where parent_span_id is null',
        target
    );
    execute format('analyze %s', target);
    return spans;
end $$;


-- Deleting ----------------------------------------------------------------------------------------------------------

-- Removes what no stored span refers to any more. It changes the store's generation, so that writers write again what
-- they need of it.
create or replace function _promscale.delete_unused_origins() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    -- In the order in which writers lock them.
    lock table _promscale.resource, _promscale.scope, _promscale.operation, _promscale.origin in share row exclusive mode;
    perform pg_advisory_xact_lock(_promscale.summary_lock());
    create temporary table touched on commit drop as
    select distinct s.origin_id, s.tag_set_id
    from (select distinct t.minute from _promscale.touched_minute as t) as t
    inner join _promscale.span as s on s.start_time >= t.minute and s.start_time < t.minute + interval '1 minute';
    create temporary table summarised on commit drop as
    select m.origin_ids, m.tag_set_ids
    from _promscale.minute as m
    where not exists (select from _promscale.touched_minute as t where t.minute = m.minute);
    delete from _promscale.origin as o
    where not exists (
        select
        from (
            select unnest(s.origin_ids) from pg_temp.summarised as s
            union
            select t.origin_id from pg_temp.touched as t
        ) as used (id)
        where used.id = o.id
    );
    if found then
        delete from _promscale.operation as p
        where not exists (select from _promscale.origin as o where o.operation_id = p.id);
        delete from _promscale.resource as r
        where not exists (select from _promscale.origin as o where o.resource_id = r.id);
        delete from _promscale.scope as c
        where not exists (select from _promscale.origin as o where o.scope_id = c.id);
        update _promscale.store set generation = gen_random_uuid();
    end if;
    delete from _promscale.tag_set as t
    where not (t.current and exists (select from _promscale.origin as o where o.id = t.origin_id))
        and not exists (
            select
            from (
                select unnest(p.tag_set_ids) from _promscale.partition as p
                union
                select unnest(s.tag_set_ids) from pg_temp.summarised as s
                union
                select w.tag_set_id from pg_temp.touched as w
            ) as used (id)
            where used.id = t.id
        );
    if found then
        update _promscale.store
        set tag_sets_version = tag_sets_version + 1, tag_sets_valid_since = tag_sets_version + 1;
    end if;
end $$;

create or replace function ps_trace.delete_all_traces() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    starts timestamptz;
begin
    -- In the order in which writers lock them. Readers may go on until the spans are locked: a reader has these tables
    -- and the spans in any order.
    lock table _promscale.resource, _promscale.scope, _promscale.operation, _promscale.origin in share row exclusive mode;
    perform pg_advisory_xact_lock(hashtext('_promscale.partition'));
    for starts in select p.starts_at from _promscale.partition as p loop
        perform _promscale.drop_partition(starts);
    end loop;
    truncate _promscale.span, _promscale.traces_data;
    delete from _promscale.resource;
    delete from _promscale.scope;
    delete from _promscale.operation;
    delete from _promscale.origin;
    delete from _promscale.tag_set;
    delete from _promscale.touched_minute;
    delete from _promscale.minute;
    delete from _promscale.operation_minute;
    delete from _promscale.operation_trace;
    delete from _promscale.call_minute;
    delete from _promscale.missing_parent;
    update _promscale.store
    set
        generation = gen_random_uuid(),
        closed_until = '-infinity',
        tag_sets_version = tag_sets_version + 1,
        tag_sets_valid_since = tag_sets_version + 1;
end $$;

revoke execute on function _promscale.choose_tag_sets, _promscale.choose_current_tag_sets, _promscale.touch_minutes
from public;
grant execute on function _promscale.choose_tag_sets, _promscale.choose_current_tag_sets, _promscale.touch_minutes
to prom_writer;
