-- What the statements of queries/ share.

-- Calls from one service to another, by the pairs of spans that OpenTelemetry makes of a call.
create view ps_trace.service_call_minute as
select
    m.minute,
    m.caller_service_name as caller,
    m.callee_service_name as callee,
    sum(m.calls)::bigint as calls,
    sum(m.errors)::bigint as errors,
    sum(m.total_ms) as total_ms
from ps_trace.call_minute as m
where m.caller_service_name <> m.callee_service_name
    and m.caller_span_kind in ('client', 'producer', 'unspecified')
    and m.callee_span_kind in ('server', 'consumer', 'unspecified')
group by m.minute, m.caller_service_name, m.callee_service_name;

grant select on ps_trace.service_call_minute to prom_reader, prom_writer;
