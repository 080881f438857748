-- How users' statements run, in a transaction of their own, as cursors, whose rows are returned as texts; and whether
-- the database is distributed.

-- name: one_snapshot()!
-- PostgreSQL does not let a transaction become read-write after its first query:
-- https://www.postgresql.org/docs/current/sql-set-transaction.html
set transaction isolation level repeatable read, read only;

-- name: limit_time(milliseconds)$
select set_config('statement_timeout', :milliseconds, true);

-- name: columns()
fetch 0 from page;

-- name: page(max_rows, max_bytes)
select ps_trace.fetch_text('page', :max_rows, :max_bytes);

-- name: close_page()!
close page;

-- name: is_distributed()$
select ps_trace.is_distributed();
