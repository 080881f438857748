"""The messages of Jaeger's remote storage protocol, version 2: package jaeger.storage.v2.

Source of the names, numbers and types: jaeger-idl, proto/storage/v2/{trace,dependency}_storage.proto. What a client
may send as it likes is plain `bytes` here: what is wrong with it is for promscale/jaeger.py to say. The attributes of
a query have OTLP's wire format and are read as OTLP's KeyValue.
"""

from types import SimpleNamespace

from promscale.wire import message_classes

_MESSAGES = {
    "Timestamp": [("seconds", 1, "int64"), ("nanos", 2, "int32")],
    "Duration": [("seconds", 1, "int64"), ("nanos", 2, "int32")],
    "GetServicesRequest": [],
    "GetServicesResponse": [("services", 1, "*string")],
    "GetOperationsRequest": [("service", 1, "bytes"), ("span_kind", 2, "bytes")],
    "Operation": [("name", 1, "string"), ("span_kind", 2, "string")],
    "GetOperationsResponse": [("operations", 1, "*Operation")],
    "GetTraceParams": [("trace_id", 1, "bytes"), ("start_time", 2, "Timestamp"), ("end_time", 3, "Timestamp")],
    "GetTracesRequest": [("query", 1, "*GetTraceParams")],
    "TraceQueryParameters": [
        ("service_name", 1, "bytes"),
        ("operation_name", 2, "bytes"),
        ("attributes", 3, "*bytes"),
        ("start_time_min", 4, "Timestamp"),
        ("start_time_max", 5, "Timestamp"),
        ("duration_min", 6, "Duration"),
        ("duration_max", 7, "Duration"),
        ("search_depth", 8, "int32"),
        ("filter", 9, "bytes"),
    ],
    "FindTracesRequest": [("query", 1, "TraceQueryParameters")],
    "FindTraceIDsRequest": [("query", 1, "TraceQueryParameters")],
    "FindTraceSummariesRequest": [("query", 1, "TraceQueryParameters")],
    "FoundTraceID": [("trace_id", 1, "bytes"), ("start", 2, "Timestamp"), ("end", 3, "Timestamp")],
    "FindTraceIDsResponse": [("trace_ids", 1, "*FoundTraceID")],
    "ServiceSummary": [("name", 1, "string"), ("span_count", 2, "int32"), ("error_span_count", 3, "int32")],
    "TraceSummary": [
        ("trace_id", 1, "bytes"),
        ("root_service_name", 2, "string"),
        ("root_operation_name", 3, "string"),
        ("min_start_time_unix_nano", 4, "fixed64"),
        ("max_end_time_unix_nano", 5, "fixed64"),
        ("span_count", 6, "int32"),
        ("error_span_count", 7, "int32"),
        ("orphan_span_count", 8, "int32"),
        ("services", 9, "*ServiceSummary"),
    ],
    "FindTraceSummariesResponse": [("summaries", 1, "*TraceSummary")],
    "GetDependenciesRequest": [("start_time", 1, "Timestamp"), ("end_time", 2, "Timestamp")],
    "Dependency": [
        ("parent", 1, "string"),
        ("child", 2, "string"),
        ("call_count", 3, "uint64"),
        ("source", 4, "string"),
    ],
    "GetDependenciesResponse": [("dependencies", 1, "*Dependency")],
}

PACKAGE = "jaeger.storage.v2"
messages = SimpleNamespace(**message_classes(PACKAGE, _MESSAGES))
