-- The statements of promscale/jaeger.py, run as prom_reader, which may read the views ps_trace.jaeger_* only.

-- name: become_reader(milliseconds)$
-- For the connection's lifetime. The timeout also limits how long a slow client can keep a transaction open.
select
    set_config('role', 'prom_reader', false),
    set_config('default_transaction_read_only', 'on', false),
    set_config('default_transaction_isolation', 'repeatable read', false),
    set_config('jit', 'off', false), -- its compilation takes longer than it saves
    set_config('statement_timeout', :milliseconds, false),
    set_config('idle_in_transaction_session_timeout', :milliseconds, false);

-- name: services()
select distinct service_name
from ps_trace.operation
order by service_name;

-- name: operations(service_name, span_kind)
select span_name, coalesce(nullif(cast(span_kind as text), 'unspecified'), '') as span_kind
from ps_trace.operation
where service_name = :service_name
    and (cast(:span_kind as ps_trace.span_kind) is null or span_kind = :span_kind)
order by span_name, span_kind;

-- name: traces_data(trace_id)
select data
from ps_trace.jaeger_traces_data
where trace_id = :trace_id;

-- name: dictionary(id)$
select data
from ps_trace.jaeger_dictionary
where id = :id;

-- name: origin_ids(service_name, operation_name)
select id
from ps_trace.jaeger_origin
where (cast(:service_name as text) is null or service_name = :service_name)
    and (cast(:operation_name as text) is null or span_name = :operation_name);

-- name: times(start_time_min, start_time_max, origin_ids, duration_min, attributes)
-- Time ranges that may have matching spans, both ends included, the latest first.
select starts, ends
from ps_trace.jaeger_times(
    :start_time_min, :start_time_max, cast(:origin_ids as bigint[]), :duration_min, :attributes
);

-- name: is_distributed()$
select ps_trace.is_distributed();

-- name: matching_traces#
-- The trace of each span of {spans}, which is matching_spans.
select trace_id from ({spans}) as span;

-- name: newest_matching_traces#
-- On Citus, whose nodes return their rows in any order and each looks for the newest traces of its own.
select trace_id from ({spans}) as span group by trace_id order by max(start_time) desc, trace_id limit {depth};

-- name: matching_spans#
-- {conditions} is has_attribute for each attribute of the search; a span must fulfil all. The time ranges are searched
-- one after the other, in the order of {starts}.
select span.trace_id, span.start_time
from unnest(cast({starts} as timestamptz[]), cast({ends} as timestamptz[])) as times (starts, ends)
cross join lateral (
    select trace_id, start_time
    from ps_trace.jaeger_span
    where start_time between times.starts and times.ends
        and duration_ms between {duration_min} and {duration_max}
        and ({origin_ids} is null or origin_id = any({origin_ids}))
        and {conditions}
    order by start_time desc
) as span

-- name: has_attribute#
-- A condition of matching_spans. {values} are the attribute's matching values. {events} and {links} are jsonb that a
-- span's events or links contain if they have the attribute, which is a fast check before the exact one. Some keys are
-- attributes in Jaeger and fields in OTLP.
(
    own_tags -> {key} = any({values})
    or tag_set_id in (select id from ps_trace.jaeger_tag_set where tags -> {key} = any({values}))
    or origin_id in (
        select id
        from ps_trace.jaeger_origin
        where resource_tags -> {key} = any({values})
            or scope_tags -> {key} = any({values})
            or case {key}
                when 'span.kind' then to_jsonb(span_kind) = any({values})
                when 'otel.scope.name' then to_jsonb(scope_name) = any({values})
                when 'otel.scope.version' then to_jsonb(scope_version) = any({values})
                else false
            end
    )
    or (
        events @> any({events})
        and exists (select from jsonb_array_elements(events) as event where event -> 2 -> {key} = any({values}))
    )
    or (
        links @> any({links})
        and exists (select from jsonb_array_elements(links) as link where link -> 'a' -> {key} = any({values}))
    )
    or case {key}
        when 'error' then to_jsonb(status_code = 'error') = any({values})
        when 'otel.status_code' then to_jsonb(upper(cast(nullif(status_code, 'unset') as text))) = any({values})
        when 'otel.status_description' then to_jsonb(status_message) = any({values})
        else false
    end
)

-- name: trace_times(trace_ids)
select
    trace_id,
    cast(min(start_unix_nano) as text) as min_start_unix_nano,
    cast(max(end_unix_nano) as text) as max_end_unix_nano
from ps_trace.jaeger_span
where trace_id = any(:trace_ids)
group by trace_id;

-- name: trace_summaries(trace_ids)
-- An orphan is a span whose parent is not stored. The root span is the first one without a parent.
with spans as (
    select
        trace_id, span_id, parent_span_id, service_name, span_name, start_unix_nano, end_unix_nano,
        status_code = 'error' as failed
    from ps_trace.jaeger_span
    where trace_id = any(:trace_ids)
), roots as (
    select distinct on (trace_id) trace_id, service_name, span_name
    from spans
    where parent_span_id is null
    order by trace_id, start_unix_nano
), orphans as (
    select trace_id, count(*) as orphan_count
    from spans as child
    where parent_span_id is not null
        and not exists (
            select from spans as parent
            where parent.trace_id = child.trace_id and parent.span_id = child.parent_span_id
        )
    group by trace_id
), services as (
    select
        trace_id,
        service_name,
        count(*) as span_count,
        count(*) filter (where failed) as error_count,
        min(start_unix_nano) as min_start_unix_nano,
        max(end_unix_nano) as max_end_unix_nano
    from spans
    group by trace_id, service_name
)
select
    trace_id,
    roots.service_name,
    roots.span_name,
    cast(min(min_start_unix_nano) as text) as min_start_unix_nano,
    cast(max(max_end_unix_nano) as text) as max_end_unix_nano,
    cast(sum(span_count) as bigint) as span_count,
    cast(sum(error_count) as bigint) as error_count,
    coalesce(orphan_count, 0) as orphan_count,
    array_agg(services.service_name order by services.service_name) as service_names,
    array_agg(span_count order by services.service_name) as service_span_counts,
    array_agg(error_count order by services.service_name) as service_error_counts
from services
left join roots using (trace_id)
left join orphans using (trace_id)
group by trace_id, roots.service_name, roots.span_name, orphan_count;

-- name: dependencies(start_time, end_time)
-- Calls between services whose callee started in the time range. The caller may have started earlier.
select caller.service_name as parent, callee.service_name as child, cast(sum(calls.cnt) as bigint) as call_count
from ps_trace.operation_calls(
    coalesce(:start_time, timestamptz '-infinity'),
    coalesce(cast(:end_time as timestamptz) + interval '1 microsecond', timestamptz 'infinity')
) as calls
inner join ps_trace.operation as caller on caller.id = calls.parent_operation_id
inner join ps_trace.operation as callee on callee.id = calls.child_operation_id
where caller.service_name <> callee.service_name
group by caller.service_name, callee.service_name
order by parent, child;
