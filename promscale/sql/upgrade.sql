-- The statements of promscale/upgrade.py. The first schema's tables are _promscale.first_span and first_traces_data.

-- name: is_needed()$
-- Of a table that another session has dropped since this transaction began, to_regclass may still find the name.
select count(*) > 0
from pg_catalog.pg_class
where relnamespace = cast('_promscale' as regnamespace) and relname = 'first_span';

-- name: prepare()#
-- Creates a table for the copy's progress, an index on its order, and the origins of all spans.
create table if not exists _promscale.upgrade (
    only_row boolean primary key default true check (only_row),
    copied_until timestamptz not null default '-infinity',
    spans bigint not null,
    copied_spans bigint not null default 0
);
insert into _promscale.upgrade (spans)
select count(*) from _promscale.first_span
on conflict do nothing;
create index if not exists first_traces_data_time on _promscale.first_traces_data (last_start_time);
insert into _promscale.origin (id, operation_id, resource_id, scope_id, service_name, span_kind, span_name)
select
    hashtextextended(concat_ws(',', o.id, s.resource_id, s.scope_id), 0),
    o.id, s.resource_id, s.scope_id, o.service_name, o.span_kind, o.span_name
from (
    select distinct resource_id, scope_id, service_name, span_kind, span_name from _promscale.first_span
) as s
inner join _promscale.operation as o using (service_name, span_kind, span_name)
on conflict do nothing;

-- name: lock()$
select pg_advisory_xact_lock(hashtext('_promscale.upgrade'));

-- name: next_hour()$
-- The first hour with data that is not copied yet; null when all is copied.
select date_bin('1 hour', least(
    (select min(s.start_time) from _promscale.first_span as s where s.start_time >= u.copied_until),
    (select min(t.last_start_time) from _promscale.first_traces_data as t where t.last_start_time >= u.copied_until)
), 'epoch')
from _promscale.upgrade as u;

-- name: create_partition(hour)$
select _promscale.create_partitions(array[cast(:hour as timestamptz)]);

-- name: copy_spans(hour)!
insert into _promscale.span (
    trace_id, span_id, start_time, duration_ms, parent_span_id, origin_id, status_code, start_ns,
    dropped_tags_count, dropped_events_count, dropped_link_count, trace_state, status_message,
    span_tags, events, links
)
select
    s.trace_id, s.span_id, s.start_time, s.duration_ms, s.parent_span_id,
    hashtextextended(concat_ws(',', o.id, s.resource_id, s.scope_id), 0),
    s.status_code, s.start_ns,
    s.dropped_tags_count, s.dropped_events_count, s.dropped_link_count, s.trace_state, s.status_message,
    nullif(s.span_tags, '{}'), converted.events, s.links
from _promscale.first_span as s
inner join _promscale.operation as o using (service_name, span_kind, span_name)
cross join lateral (
    select jsonb_agg(
        case
            when e.event ? 'd' then jsonb_build_array(micros, e.event -> 'n', e.event -> 'a', e.event -> 'd')
            when e.event -> 'a' <> '{}' then jsonb_build_array(micros, e.event -> 'n', e.event -> 'a')
            else jsonb_build_array(micros, e.event -> 'n')
        end
        order by e.number
    )
    from jsonb_array_elements(s.events) with ordinality as e (event, number)
    cross join lateral (
        select cast(e.event ->> 't' as bigint) - cast(extract(epoch from s.start_time) * 1000000 as bigint)
    ) as offset_of (micros)
) as converted (events)
where s.start_time >= :hour and s.start_time < cast(:hour as timestamptz) + interval '1 hour';

-- name: copy_traces_data(hour)!
insert into _promscale.traces_data (trace_id, last_start_time, data)
select trace_id, last_start_time, data
from _promscale.first_traces_data
where last_start_time >= :hour and last_start_time < cast(:hour as timestamptz) + interval '1 hour';

-- name: touch_minutes(hour)!
insert into _promscale.touched_minute (minute)
select distinct _promscale.minute_of(start_time)
from _promscale.first_span
where start_time >= :hour and start_time < cast(:hour as timestamptz) + interval '1 hour';

-- name: record_progress(hour, spans)^
update _promscale.upgrade
set copied_until = cast(:hour as timestamptz) + interval '1 hour', copied_spans = copied_spans + :spans
returning copied_spans, spans;

-- name: finish()#
-- One statement each: TimescaleDB cannot drop a hypertable together with other tables.
drop table _promscale.first_span;
drop table _promscale.first_traces_data;
drop table _promscale.upgrade;
