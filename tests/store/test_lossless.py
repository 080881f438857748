"""Any valid OTLP that is stored is read back unchanged, field by field."""

import uuid

from hypothesis import HealthCheck, given, settings

from tests.store.any_otlp import assign_ids, requests
from tests.store.running import value_of
from tests.store.searching import trace_id_of, traces_request
from tests.store.store_contents import spans_by_identity


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(requests)
def test_spans_are_read_back_unchanged(promscale, database, message):
    trace_ids = [uuid.uuid4().bytes, uuid.uuid4().bytes]
    assign_ids(trace_ids, message)
    assert not promscale.export(message).HasField("partial_success")
    read: dict = {}
    for chunk in promscale.read("GetTraces", traces_request(*trace_ids)):
        assert trace_id_of(chunk) in trace_ids
        read |= spans_by_identity(chunk.resource_spans)
    assert read == spans_by_identity(message.resource_spans)
    # SQL shows all of the spans, whatever they contain.
    uuids = [[uuid.UUID(bytes=trace_id) for trace_id in trace_ids]]
    assert value_of(database, "select count(*) from span where trace_id = any(%s)", uuids) == len(read)
    for view in ("span", "event", "link"):
        database.execute(f"select * from {view} where trace_id = any(%s)", uuids)
