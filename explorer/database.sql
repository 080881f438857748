-- How a user's statement runs, in a transaction of its own, as a cursor, whose rows are returned as texts; and whether
-- the database is distributed.

-- name: begin_reading(milliseconds)$
-- PostgreSQL does not let a transaction become read-write after its first query:
-- https://www.postgresql.org/docs/current/sql-set-transaction.html
select
    set_config('transaction_read_only', 'on', true),
    set_config('statement_timeout', :milliseconds, true);

-- name: columns()
fetch 0 from page;

-- name: page(max_rows, max_bytes)
select ps_trace.fetch_text('page', :max_rows, :max_bytes);

-- name: is_distributed()$
select ps_trace.is_distributed();
