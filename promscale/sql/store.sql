-- The statements of promscale/store.py: migrations, and writing spans.

-- name: prepare_migrations()#
create schema if not exists _ps_trace;
create schema if not exists _promscale;
do $$
begin
    -- The first schema kept this table in the schema _ps_trace.
    if to_regclass('_ps_trace.migration') is not null then
        alter table _ps_trace.migration set schema _promscale;
    end if;
end $$;
create table if not exists _promscale.migration (
    number int primary key,
    file_name text not null,
    applied_at timestamptz not null default now()
);
alter table _promscale.migration add column if not exists sha256 text;

-- name: lock_migrations()$
-- Several promscales may start on one database at the same time. The lock is held until the transaction ends.
select pg_advisory_xact_lock(hashtext('_promscale.migration'));

-- name: applied_migrations()
-- sha256 is null for a migration that the first version of promscale applied.
select number, file_name, sha256 from _promscale.migration;

-- name: record_migration(number, file_name, sha256)!
insert into _promscale.migration (number, file_name, sha256) values (:number, :file_name, :sha256);

-- name: set_default_disk_budget(disk_budget)!
update _promscale.store
set default_disk_budget = :disk_budget
where default_disk_budget <> :disk_budget;

-- name: commit_to_disk()$
-- Durability: an acknowledged span is on disk, even if the database's default is synchronous_commit = off.
select set_config('synchronous_commit', 'on', false)
where current_setting('synchronous_commit') = 'off';

-- name: create_partition(hour)$
-- `hour` counts from 1970. The lock timeout ends with the statement.
select
    set_config('lock_timeout', '5s', true),
    _promscale.create_partitions(array[timestamptz 'epoch' + :hour * interval '1 hour']);

-- name: insert_resources()*!
insert into _promscale.resource (id, tags, dropped_tags_count, schema_url)
values (%s, %s, %s, %s)
on conflict do nothing;

-- name: insert_scopes()*!
insert into _promscale.scope (id, name, version, schema_url, tags)
values (%s, %s, %s, %s, %s)
on conflict do nothing;

-- name: insert_operations()*!
insert into _promscale.operation (id, service_name, span_kind, span_name)
values (%s, %s, %s, %s)
on conflict do nothing;

-- name: insert_origins()*!
insert into _promscale.origin (id, operation_id, resource_id, scope_id, service_name, span_kind, span_name)
values (%s, %s, %s, %s, %s, %s, %s)
on conflict do nothing;

-- name: touch_minutes(minutes, trace_ids)^
-- The last statement of a transaction that stores spans; `minutes` count from 1970. Returns the store's generation, the
-- end of the time in which partitions may be closed, in seconds since 1970, and which versions of tag sets are valid.
select generation, closed_until, tag_sets_version, tag_sets_valid_since
from _promscale.touch_minutes(cast(:minutes as bigint[]), cast(:trace_ids as uuid[]));

-- name: current_tag_sets(limit, max_bytes)
-- The newest first, without those whose JSON is larger.
select id, origin_id, cast(tags as text) as tags
from _promscale.tag_set
where current and octet_length(cast(tags as text)) <= :max_bytes
order by id desc
limit :limit;

-- name: lock_late_spans()$
-- Closed partitions have no identity index, so that only one writer at a time may look up and store late spans.
select pg_advisory_xact_lock(hashtext('_promscale.late_spans'));

-- name: stored_identities(trace_ids)
-- The identities of the stored spans of these traces; the start is in nanoseconds since 1970.
select
    trace_id,
    span_id,
    cast(extract(epoch from start_time) * 1000000 as bigint) * cast(1000 as numeric) + start_ns as start_time_unix_nano
from _promscale.span
where trace_id = any(:trace_ids);
