-- The statements of promscale/upkeep.py.

-- name: try_lock()$
-- Of several promscales on one database, the one that holds this advisory lock does the upkeep. The lock is held until
-- the connection is closed.
select pg_try_advisory_lock(hashtext('_promscale.upkeep'));

-- name: configure()$
-- Lock timeout: a statement that waits for an exclusive lock blocks all later ones. No JIT, because its compilation
-- takes too long: reading the attributes of a minute takes 0.9 s with it and 0.1 s without. With this work_mem, no
-- temporary files are written for a minute of 300,000 spans, which would take half as long again.
select
    set_config('lock_timeout', '2s', false), set_config('jit', 'off', false), set_config('work_mem', '64MB', false);

-- name: create_partitions_ahead()$
select _promscale.create_partitions(array[now(), now() + interval '59 minutes']);

-- name: due_minutes(quiet_seconds, limit)
-- Minutes to summarise, with the ids of the rows that record new spans: minutes without new spans for `quiet_seconds`,
-- and past minutes that have waited for a minute.
select minute, array_agg(id) as touched_ids
from _promscale.touched_minute
group by minute
having max(touched_at) <= clock_timestamp() - :quiet_seconds * interval '1 second'
    or (
        minute < clock_timestamp() - interval '1 minute'
        and min(touched_at) < clock_timestamp() - interval '1 minute'
    )
order by minute desc
limit :limit;

-- name: is_settled()$
-- Whether all spans of the minutes that due_minutes has returned are visible; on Citus, not always.
select _promscale.is_settled();

-- name: attribute_hashes(minute)
select _promscale.attribute_hashes(:minute);

-- name: summarise(minute, touched_ids, attribute_filter)$
select _promscale.summarise(:minute, :touched_ids, :attribute_filter);

-- name: span_count()$
select _promscale.span_count('-infinity', 'infinity');

-- name: refresh_statistics()$
select _promscale.refresh_statistics();

-- name: choose_tag_sets()$
select _promscale.choose_current_tag_sets();

-- name: restore_readers()$
select _promscale.restore_readers();

-- name: delete_old_spans()$
-- Returns whether there were any.
select _promscale.delete_old_spans();

-- name: outdated_partitions()
select starts_at
from _promscale.partition
where ends_at < now() - (select trace_retention_period from _promscale.store)
order by starts_at;

-- name: drop_partition(starts_at)$
select _promscale.drop_partition(:starts_at);

-- name: disk_budget()$
select ps_trace.get_trace_disk_budget();

-- name: disk_used()$
select ps_trace.disk_used();

-- name: partition_sizes()
-- The start, name, size in bytes and end (in the past or not) of each partition, the oldest first.
select u.starts_at, p.name, u.row_bytes + u.index_bytes + u.lossless_bytes as bytes, u.ends_at <= now() as over
from ps_trace.disk_usage as u
inner join _promscale.partition as p on p.starts_at = u.starts_at
order by u.starts_at;

-- name: split_partition(name, seconds)$
-- Ends the partition `seconds` from now.
select _promscale.split_partition(:name, date_trunc('second', now()) + :seconds * interval '1 second');

-- name: delete_unused_origins()$
select _promscale.delete_unused_origins();

-- name: partitions_to_close(minutes)
-- Open partitions that ended at least `minutes` ago, the oldest first.
select name
from _promscale.partition
where closed_at is null and ends_at < now() - :minutes * interval '1 minute'
order by starts_at;
