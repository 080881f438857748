-- The statements of promscale/closing.py.

-- name: begin_closing(name)$
select _promscale.begin_closing(:name);

-- name: copy_spans_densely(name)$
-- Returns the number of spans.
select _promscale.copy_spans_densely(:name);

-- name: newest_dictionary()$
select data from _promscale.dictionary order by trained_at desc limit 1;

-- name: traces_data#
-- {source} is a table, or a subquery with its rows. The time is in microseconds since 2000-01-01, as COPY needs it.
select trace_id, cast(extract(epoch from last_start_time) * 1000000 as bigint) - 946684800000000, data
from {source}
order by trace_id;

-- name: insert_dictionary(id, data)!
insert into _promscale.dictionary (id, data) values (:id, :data) on conflict do nothing;

-- name: finish_closing(name, spans, traces_data, dictionary_id)$
-- Returns false, and leaves the partition open, if its numbers of rows have changed.
select _promscale.finish_closing(:name, :spans, :traces_data, :dictionary_id);
