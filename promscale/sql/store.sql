-- What promscale says to the database, by name.

-- name: prepare_migrations()#
create schema if not exists _ps_trace;
create table if not exists _ps_trace.migration (
    number int primary key,
    file_name text not null,
    applied_at timestamptz not null default now()
);

-- name: lock_migrations()$
-- Several promscales may start at once on one database: held until the transaction ends.
select pg_advisory_xact_lock(hashtext('_ps_trace.migration'));

-- name: applied_migrations()
select number from _ps_trace.migration;

-- name: record_migration(number, file_name)!
insert into _ps_trace.migration (number, file_name) values (:number, :file_name);

-- name: commit_to_disk()$
-- An acknowledged span is on disk, also where the database's own default is to wait for less.
select set_config('synchronous_commit', 'on', false)
where current_setting('synchronous_commit') = 'off';

-- name: insert_operations()*!
insert into _ps_trace.operation (id, service_name, span_kind, span_name)
values (%s, %s, %s, %s)
on conflict do nothing;

-- name: insert_resources()*!
insert into _ps_trace.resource (id, tags, dropped_tags_count, schema_url)
values (%s, %s, %s, %s)
on conflict do nothing;

-- name: insert_scopes()*!
insert into _ps_trace.scope (id, name, version, schema_url, tags)
values (%s, %s, %s, %s, %s)
on conflict do nothing;

-- name: copy_spans()!
-- The columns are in the order of promscale/otlp.py's rows.
copy _ps_trace.span (
    trace_id, span_id, start_time, end_time, duration_ms, resource_id, scope_id, start_ns, parent_span_id,
    dropped_tags_count, dropped_events_count, dropped_link_count, span_kind, status_code,
    service_name, span_name, trace_state, status_message, span_tags, events, links
) from stdin (format binary);

-- name: copy_traces_data()!
copy _ps_trace.traces_data (trace_id, last_start_time, data) from stdin (format binary);

-- name: stored_identities(trace_ids)
-- Trace id, span id and start, in nanoseconds since 1970, of what is stored of these traces.
select
    trace_id,
    span_id,
    cast(extract(epoch from start_time) * 1000000 as bigint) * cast(1000 as numeric) + start_ns as start_time_unix_nano
from _ps_trace.span
where trace_id = any(:trace_ids);

-- name: generation()$
select generation from _ps_trace.store;

-- name: delete_old_traces()$
select _ps_trace.delete_old_traces();

-- name: refresh_statistics()$
select _ps_trace.refresh_statistics();
