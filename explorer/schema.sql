-- What a user's statement can read: the views of the SQL interface, without those that only Jaeger's searches read.

-- name: columns_of_views()
select
    views.relname as view_name,
    coalesce(obj_description(views.oid, 'pg_class'), '') as view_comment,
    columns.attname as column_name,
    format_type(columns.atttypid, columns.atttypmod) as column_type,
    coalesce(col_description(views.oid, columns.attnum), '') as column_comment
from pg_class as views
inner join pg_attribute as columns on columns.attrelid = views.oid and columns.attnum > 0
where views.relnamespace = to_regnamespace('ps_trace')
    and views.relkind = 'v'
    and not starts_with(views.relname, 'jaeger_')
    and has_table_privilege(views.oid, 'select')
order by views.relname, columns.attnum;
