-- What the page of a trace asks the database.

-- name: earlier_calls(trace_id, span_id, start_time)
-- How many calls of the span's operation started in the hour before it, and how many of them were faster?
with this as (
    select service_name, span_name, duration_ms
    from span
    where trace_id = :trace_id and span_id = :span_id and start_time = :start_time
)
select
    count(earlier.span_id) as calls,
    count(earlier.span_id) filter (where earlier.duration_ms < this.duration_ms) as faster
from this
left join span as earlier
    on earlier.service_name = this.service_name
    and earlier.span_name = this.span_name
    and earlier.start_time >= cast(:start_time as timestamptz) - interval '1 hour'
    and earlier.start_time < :start_time
group by this.service_name, this.span_name, this.duration_ms;
