-- The statements of transfer/, which read the views of ps_trace and demo.fault as a member of prom_reader, all in one
-- snapshot. {from}, {to} and {inject_time} are times, {traces} is selected_traces, and {labels} says whether labels of
-- faults are kept.

-- name: database_time#
select cast({time} as timestamptz);

-- name: database_time_ago#
select now() - cast({time} as interval);

-- name: selected_traces#
-- The traces with a span in the time range that fulfils the user's {condition}, which may end with a comment. Of these,
-- those whose first such span starts from {first_from} on and before {first_to}.
select trace_id
from ps_trace.span
where start_time >= {from} and start_time < {to} and (
    {condition}
)
group by trace_id
having min(start_time) >= {first_from} and min(start_time) < {first_to}

-- name: count_spans#
select count(*) from ps_trace.jaeger_span where trace_id in ({traces})

-- name: dictionaries#
select id, data from ps_trace.jaeger_dictionary

-- name: traces_data#
select data from ps_trace.jaeger_traces_data where trace_id in ({traces})

-- name: spans#
-- What the spans of an origin share is made a text once, and not for each of them.
with origin as materialized (
    select
        id,
        cast(span_kind as text) as span_kind,
        scope_name,
        scope_version,
        cast(resource_tags as text) as resource_tags
    from ps_trace.jaeger_origin
), span as (
    select
        *,
        case
            when tag_set_id is null then coalesce(own_tags, '{{}}')
            else
                (select tags from ps_trace.jaeger_tag_set where id = tag_set_id) || coalesce(own_tags, '{{}}')
        end as span_tags
    from ps_trace.jaeger_span
    where trace_id in ({traces})
)
select
    encode(uuid_send(span.trace_id), 'hex') as trace_id,
    encode(int8send(span.span_id), 'hex') as span_id,
    encode(int8send(span.parent_span_id), 'hex') as parent_span_id,
    span.service_name,
    span.span_name,
    origin.span_kind,
    span.start_time,
    span.duration_ms,
    cast(span.status_code as text) as status_code,
    span.status_message,
    cast(
        case
            when {labels} then span_tags
            else span_tags - array(
                select key from jsonb_object_keys(span_tags) as key where starts_with(key, {label_prefix})
            )
        end as text
    ) as span_tags,
    cast(
        case
            when {labels} then span.events
            else nullif(jsonb_path_query_array(span.events, {other_events}), '[]')
        end as text
    ) as events,
    cast(span.links as text) as links,
    origin.scope_name,
    origin.scope_version,
    origin.resource_tags
from span
inner join origin on origin.id = span.origin_id

-- name: has_faults#
select to_regclass('demo.fault') is not null

-- name: faults#
select start_time, end_time, flag, variant, service, seed
from demo.fault
where start_time < {to} and (end_time is null or end_time > {from})
order by start_time, flag

-- name: injected_faults#
-- The faults that began in the time range.
select start_time, end_time, flag, variant, service
from demo.fault
where start_time >= {from} and start_time < {to}
order by start_time, flag

-- name: rcabench_spans#
select
    start_time as time,
    encode(uuid_send(trace_id), 'hex') as trace_id,
    encode(int8send(span_id), 'hex') as span_id,
    encode(int8send(parent_span_id), 'hex') as parent_span_id,
    case when service_name = {root_service} then {load_generator} else service_name end as service_name,
    span_name,
    cast(round(greatest(duration_ms, 0) * 1000000) as bigint) as duration,
    initcap(cast(span_kind as text)) as "attr.span_kind",
    initcap(cast(status_code as text)) as "attr.status_code",
    span_tags ->> 'http.request.method' as "attr.http.request.method",
    cast(substring(span_tags ->> 'http.response.status_code' from '^\d{{3}}$') as int)
        as "attr.http.response.status_code",
    cast(substring(span_tags ->> 'http.request.body.size' from '^\d{{1,18}}$') as bigint)
        as "attr.http.request.content_length",
    cast(substring(span_tags ->> 'http.response.body.size' from '^\d{{1,18}}$') as bigint)
        as "attr.http.response.content_length",
    resource_tags ->> 'k8s.pod.name' as "attr.k8s.pod.name",
    case when service_name = {root_service} then {load_generator} else service_name end as "attr.k8s.service.name",
    resource_tags ->> 'k8s.namespace.name' as "attr.k8s.namespace.name"
from ps_trace.span
where trace_id in ({traces})

-- name: rcaeval_spans#
-- startTime and duration are microseconds. The status is that of HTTP, or else 0, or 2 for an error.
select
    to_char(start_time at time zone 'UTC', 'HH24:MI') as time,
    encode(uuid_send(trace_id), 'hex') as "traceID",
    encode(int8send(span_id), 'hex') as "spanID",
    service_name as "serviceName",
    span_name as "methodName",
    span_name as "operationName",
    cast(floor(extract(epoch from start_time) * 1000) as bigint) as "startTimeMillis",
    cast(extract(epoch from start_time) * 1000000 as bigint) as "startTime",
    cast(round(greatest(duration_ms, 0) * 1000) as bigint) as duration,
    coalesce(
        cast(substring(span_tags ->> 'http.response.status_code' from '^\d{{3}}$') as int),
        case status_code when 'error' then 2 else 0 end
    ) as "statusCode",
    encode(int8send(parent_span_id), 'hex') as "parentSpanID"
from ps_trace.span
where trace_id in ({traces})

-- name: stored_spans#
-- The number of stored spans of these traces that start in a time.
select count(*)
from ps_trace.jaeger_span
where trace_id = any({trace_ids}) and start_time between {first} and {last}

-- name: kept_from#
-- The time, in nanoseconds since 1970, before which promscale drops spans.
select 1000000000 * (extract(epoch from now()) - extract(epoch from ps_trace.get_trace_retention_period()))
