-- Hashes of all attributes of a minute's spans. Most spans share their attributes with others, so that these are told
-- apart as wholes before they are taken apart: a third of the time. Without sorting, because the planner, which cannot
-- know how many different values there are, would sort all of them.

create or replace function _promscale.attribute_hashes(asked timestamptz) returns setof bigint
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
set enable_sort = off
as $$
declare
    ends constant timestamptz := asked + interval '1 minute';
begin
    return query
    with sources as materialized (
        select s.origin_id, s.tag_set_id
        from _promscale.span as s
        where s.start_time >= asked and s.start_time < ends
        group by s.origin_id, s.tag_set_id
    ), origins as (
        select o.resource_id, o.scope_id
        from _promscale.origin as o
        where o.id in (select s.origin_id from sources as s)
    ), attributes as (
        select s.span_tags as tags
        from _promscale.span as s
        where s.start_time >= asked and s.start_time < ends and s.span_tags is not null
        group by s.span_tags
        union all
        select event -> 2
        from _promscale.span as s
        cross join lateral jsonb_array_elements(s.events) as event
        where s.start_time >= asked and s.start_time < ends and s.events is not null
        group by event -> 2
        union all
        select link -> 'a'
        from _promscale.span as s
        cross join lateral jsonb_array_elements(s.links) as link
        where s.start_time >= asked and s.start_time < ends and s.links is not null
        group by link -> 'a'
        union all
        select t.tags from _promscale.tag_set as t where t.id in (select s.tag_set_id from sources as s)
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
