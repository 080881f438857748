"""The part of ./run.sh status about the stored traces."""

import re
import time

from local import usage
from tests.store.otlp_messages import HOUR, request, span


def test_the_report_names_spans_bytes_budget_and_the_oldest(promscale, upkeep, dsn, database):
    now = time.time_ns()
    old, recent = (
        [span(start_time_unix_nano=now - hours * HOUR) for _ in range(count)] for hours, count in ((30, 3), (2, 5))
    )
    promscale.export(request(*old, *recent, span(start_time_unix_nano=1_500_000_000 * 10**9)))
    upkeep.close_partition(minutes=0)
    report = usage.report(dsn)
    assert "spans stored so far: 9\n" in report
    assert re.search(r"^disk use: [\d,]+ MB, of 2,000 MB, the disk budget$", report, re.MULTILINE)
    oldest = re.search(
        r"^oldest spans: from (\S+ \S+), 1 d [67] h old; dropped at about (\S+ \S+)$", report, re.MULTILINE
    )
    assert oldest and oldest[1] < oldest[2]
    states = re.findall(r"^(?:\S+ \S+ to \S+|any other time) +(open|closed) +(\d+)", report, re.MULTILINE)
    assert states == [("closed", "3"), ("open", "5"), ("open", "1")]
    database.execute("select ps_trace.set_trace_disk_budget(0)")
    assert "there is no disk budget" in usage.report(dsn)


def test_the_report_says_that_the_database_does_not_answer():
    assert "spans stored so far: unknown: connection" in usage.report("postgresql://postgres@127.0.0.1:1/postgres")
