-- How a statement of anybody's is run: in a transaction of its own, as a cursor, whose rows come as text.

-- name: begin_reading(milliseconds)$
-- After the first query of a transaction, PostgreSQL does not let it become read-write any more.
select
    set_config('transaction_read_only', 'on', true),
    set_config('statement_timeout', :milliseconds, true);

-- name: columns()
fetch 0 from page;

-- name: page(max_rows, max_bytes)
select ps_trace.fetch_text('page', :max_rows, :max_bytes);
