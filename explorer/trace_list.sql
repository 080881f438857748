-- The statements of trace_list.py: pages of a list of traces, in several orders, and attributes of these traces.
-- A page is those traces whose pairs of key and trace id follow a given pair, in {order}.
-- {matches} is the condition of explorer/analysis/matching.py, {beyond} that on the pair.

-- name: newest#
-- The key is the start of the trace's last matching span. Minutes are read one after the other, from the given pair on,
-- until the page is full; jaeger_times leaves out those that cannot have a match. A trace with later matches belongs to
-- another page: a scalar subquery, which the planner cannot make a join that reads the whole time range.
select cast(extract(epoch from found.last_start) * 1000000 as bigint) as key, found.trace_id
from (
    select starts, ends
    from jaeger_times(
        :first_start,
        :last_start,
        (
            select array_agg(id)
            from jaeger_origin
            where (cast(:service as text) = '' or service_name = :service)
                and (cast(:operation as text) = '' or span_name = :operation)
        ),
        :min_ms,
        :attributes
    )
    order by starts {order}
) as times
cross join lateral (
    select trace_id, max(start_time) as last_start
    from jaeger_span
    where start_time between times.starts and times.ends and {matches}
    group by trace_id
    order by last_start {order}, trace_id {order}
) as found
where {beyond}
    and case
        when {called} then (
            select trace_id
            from jaeger_span
            where trace_id = found.trace_id
                and start_time > times.ends and start_time < cast(:time_to as timestamptz) and {matches}
            limit 1
        ) is null
    end
limit :most

-- name: ranked#
-- The key is {measure}, of all spans of the trace. A trace may begin or end up to half an hour outside of the range.
select key, trace_id
from (
    select trace_id, {measure} as key
    from (
        select
            *,
            start_time >= cast(:time_from as timestamptz) and start_time < cast(:time_to as timestamptz) and {matches}
                as matches
        from jaeger_span
        where start_time >= cast(:time_from as timestamptz) - interval '30 minutes'
            and start_time < cast(:time_to as timestamptz) + interval '30 minutes'
    ) as spans
    group by trace_id
    having bool_or(matches)
) as found
where {beyond}
    and {called}
order by key {order}, trace_id {order}
limit :most

-- name: last_start#
-- That of the matching spans: the order of `newest` on Citus, whose nodes cannot read minute after minute.
cast(extract(epoch from max(start_time) filter (where matches)) * 1000000 as bigint)

-- name: longest#
-- Microseconds from the first start to the last end.
cast(extract(epoch from
    max(start_time + greatest(duration_ms, 0) * interval '1 millisecond') - min(start_time)) * 1000000 as bigint)

-- name: spans#
count(*)

-- name: errors#
count(*) filter (where status_code = 'error')

-- name: called#
-- The trace has a call of a service: a span whose parent is of the calling service or, without one, of no or another
-- service. Without coalesce, the planner would make it a join, which it cannot estimate.
coalesce(found.trace_id in (
    select callee.trace_id
    from jaeger_span as callee
    left join jaeger_span as caller
        on caller.trace_id = callee.trace_id
        and caller.span_id = callee.parent_span_id
        and caller.start_time >= cast(:time_from as timestamptz) - interval '60 minutes'
        and caller.start_time < cast(:time_to as timestamptz) + interval '60 minutes'
    where callee.service_name = :callee
        and callee.start_time >= cast(:time_from as timestamptz) - interval '30 minutes'
        and callee.start_time < cast(:time_to as timestamptz) + interval '30 minutes'
        and (not cast(:call_failed as boolean) or callee.status_code = 'error')
        and case
            when cast(:caller as text) = '' then caller.service_name is distinct from callee.service_name
            else caller.service_name = :caller
        end
), false)

-- name: attributes#
-- Of each trace and key, the value in the first matching span that has the attribute, or if none has it, in the first
-- span that has it.
with spans as materialized (
    select
        trace_id, span_id, parent_span_id, start_time, origin_id, tag_set_id, own_tags,
        coalesce(
            start_time >= cast(:time_from as timestamptz) and start_time < cast(:time_to as timestamptz) and {matches},
            false
        ) as matches
    from jaeger_span
    where trace_id = any(:trace_ids)
)
select distinct on (spans.trace_id, wanted.key)
    spans.trace_id,
    wanted.key,
    coalesce(spans.own_tags -> wanted.key, shared.tags -> wanted.key, origin.resource_tags -> wanted.key)
        #>> '{}' as value
from spans
inner join jaeger_origin as origin on origin.id = spans.origin_id
left join jaeger_tag_set as shared on shared.id = spans.tag_set_id
cross join unnest(cast(:keys as text[])) as wanted (key)
where spans.own_tags ? wanted.key or shared.tags ? wanted.key or origin.resource_tags ? wanted.key
order by
    spans.trace_id,
    wanted.key,
    spans.matches desc,
    spans.start_time,
    spans.parent_span_id is not null, -- the root span first
    spans.span_id
