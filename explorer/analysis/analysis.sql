-- The statements of explorer/analysis/. `matches` is a condition of all statements about a selection, and `sides` is
-- the beginning of `sample` and `counts`.
-- For conditions on attributes they read the views jaeger_*, as Jaeger's searches do: spans share sets of attributes
-- there, and each set is looked at once. In the view span the attributes of each span are put together, which takes ten
-- times as long.

-- name: matches#
-- A span fulfils the conditions of a selection, but for its time. {attributes} is Jaeger's condition for each of the
-- attributes.
(
    (cast(:service as text) = '' or service_name = :service)
    and (cast(:operation as text) = '' or span_name = :operation)
    and (not cast(:root as boolean) or parent_span_id is null)
    and (not cast(:failed as boolean) or status_code = 'error')
    and (cast(:min_ms as double precision) is null or duration_ms >= :min_ms)
    and (cast(:max_ms as double precision) is null or duration_ms <= :max_ms)
    and {attributes}
)

-- name: sides#
-- The traces of a selection (selected), and the others. If the selection narrows an operation's spans down, the others
-- are those that have the operation, too: base_service, base_operation and base_root are its own.
-- {matches} is the condition of matching.py.
spans as (
    select
        trace_id,
        {matches} as selected
    from jaeger_span
    where start_time >= cast(:time_from as timestamptz) and start_time < cast(:time_to as timestamptz)
        and (cast(:base_service as text) = '' or service_name = :base_service)
        and (cast(:base_operation as text) = '' or span_name = :base_operation)
        and (not cast(:base_root as boolean) or parent_span_id is null)
), traces as (
    select
        trace_id,
        coalesce(bool_or(selected), false) as selected
    from spans
    group by trace_id
)

-- name: sample#
-- At most so many traces of each side: those that come first by a hash of their ids, which is as good as random and
-- always the same. `traces` is the number of traces of the side.
select
    trace_id,
    selected,
    traces
from (
    select
        trace_id,
        selected,
        count(*) over (partition by selected) as traces,
        row_number() over (partition by selected order by uuid_hash_extended(trace_id, 0), trace_id) as number
    from traces
) as numbered
where number <= :most
order by number

-- name: trace_spans#
-- The spans of these traces, of each at most so many. A span may start up to half an hour outside of the time range.
select
    replace(cast(trace_id as text), '-', '') as trace_id,
    span_id,
    parent_span_id,
    service_name,
    span_name,
    cast(extract(epoch from start_time) * 1000000 as bigint) as start_micros,
    duration_ms,
    status_code = 'error' as failed,
    cast(span_tags as text) as span_tags,
    cast(resource_tags as text) as resource_tags
from (
    select
        *,
        row_number() over (partition by trace_id order by start_time) as number
    from span
    where trace_id = any(cast(:trace_ids as uuid[]))
        and start_time >= cast(:time_from as timestamptz) - interval '30 minutes'
        and start_time < cast(:time_to as timestamptz) + interval '30 minutes'
) as numbered
where number <= :most

-- name: slow#
-- The duration that one in ten spans of an operation exceeds.
select percentile_cont(0.9) within group (order by duration_ms) as slow_ms
from jaeger_span
where start_time >= cast(:time_from as timestamptz) and start_time < cast(:time_to as timestamptz)
    and (cast(:service as text) = '' or service_name = :service)
    and (cast(:operation as text) = '' or span_name = :operation)

-- name: counts#
-- How many traces of each side have spans that fulfil {condition}, how many such spans there are, how many of them have
-- failed, and how long they take.
select
    case when traces.selected then 'selection' else 'rest' end as side,
    count(*) as traces,
    count(found.trace_id) as traces_with_it,
    cast(sum(found.spans) as bigint) as spans_with_it,
    cast(sum(found.errors) as bigint) as errors,
    sum(found.total_ms) / cast(sum(found.spans) as double precision) as mean_ms
from traces
left join (
    select
        trace_id,
        count(*) as spans,
        count(*) filter (where status_code = 'error') as errors,
        sum(duration_ms) as total_ms
    from jaeger_span
    where start_time >= cast(:time_from as timestamptz) - interval '30 minutes'
        and start_time < cast(:time_to as timestamptz) + interval '30 minutes'
        and service_name = :finding_service
        and {condition}
    group by trace_id
) as found on found.trace_id = traces.trace_id
group by traces.selected
order by traces.selected desc

-- name: has_attribute#
-- A span, or its resource, has this value, compared as text.
(
    own_tags ->> {key} = {value}
    or tag_set_id in (select id from jaeger_tag_set where tags ->> {key} = {value})
    or origin_id in (select id from jaeger_origin where resource_tags ->> {key} = {value})
)

-- name: has_key#
(
    own_tags ->> {key} is not null
    or tag_set_id in (select id from jaeger_tag_set where tags ->> {key} is not null)
    or origin_id in (select id from jaeger_origin where resource_tags ->> {key} is not null)
)

-- name: is_operation#
span_name = {key}
