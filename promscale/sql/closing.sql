-- What closing a partition asks of the database, by name.

-- name: begin_closing(name)$
select _promscale.begin_closing(:name);

-- name: copy_spans_densely(name)$
-- How many spans there are.
select _promscale.copy_spans_densely(:name);

-- name: newest_dictionary()$
select data from _promscale.dictionary order by trained_at desc limit 1;

-- name: traces_data#
-- {source} is a table, or a subquery with its rows. The time is PostgreSQL's, in microseconds.
select trace_id, cast(extract(epoch from last_start_time) * 1000000 as bigint) - 946684800000000, data
from {source}
order by trace_id;

-- name: insert_dictionary(id, data)!
insert into _promscale.dictionary (id, data) values (:id, :data) on conflict do nothing;

-- name: finish_closing(name, spans, traces_data, dictionary_id)$
-- Whether the partition is closed: not if it has other than these numbers of rows now.
select _promscale.finish_closing(:name, :spans, :traces_data, :dictionary_id);
