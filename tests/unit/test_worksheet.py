"""The worksheet of docs/scale.md: what is computed from measured values."""

import re
from dataclasses import replace

import pytest

from benchmarks import worksheet
from benchmarks.worksheet import Layout, Machine, common_limits, server_limits, tables

MACHINE = Machine()
VALUES = {
    "spans_per_second": 80_000,
    "cpu_store": 5,
    "cpu_database": 20,
    "cpu_upkeep": 5,
    "cpu_closing": 5,
    "memory_promscale": 100e6,
    "memory_database": 300e6,
    "otlp_bytes": 250,
    "open_bytes": 400,
    "open_index_bytes": 100,
    "closed_bytes": 300,
    "wal_bytes": 1000,
    "sessions": 10,
}
ALONE = Layout("2 promscales", 2, 0, "2026-01-01", "./run.sh bench scale --promscales 2", "2 cores", VALUES)
CITUS = replace(
    ALONE, name="2 promscales, 2 workers", workers=2, values={**VALUES, "cpu_workers": 15, "worker_sessions": 40}
)


def cells(table: str, row: str) -> list[str]:
    """The cells of the row with this name."""
    (found,) = re.findall(rf"^\| {re.escape(row)} \| (.*) \|$", table, re.MULTILINE)
    return found.split(" | ")


def test_what_a_rate_takes():
    sizes = tables([ALONE], MACHINE, [1_000, 1_000_000])["sizes"]
    assert cells(sizes, "promscales, at least two") == ["2", "10"]
    assert cells(sizes, "cores: promscales") == ["0.01", "10"]
    assert cells(sizes, "cores: database, with closing") == ["0.05", "50"]
    assert cells(sizes, "memory: promscales") == ["200 MB", "1 GB"]
    assert cells(sizes, "disk: write-ahead log per second") == ["1 MB", "1 GB"]
    assert cells(sizes, "connections of all promscales") == ["24", "120"]
    assert cells(sizes, "one Collector's queue holds the spans of") == ["33.3 min", "2 s"]


def test_citus_has_a_worker_for_each_disk_and_connections_between_its_servers():
    both = tables([ALONE, CITUS], MACHINE, [100_000])["sizes"]
    citus = both.partition("Citus, by the values of 2 promscales, 2 workers")[2]
    assert cells(citus, "workers") == ["5"]  # 18.2 TB
    assert cells(citus, "cores: coordinator") == ["4"]
    assert cells(citus, "cores: all workers, with closing") == ["4"]
    assert cells(citus, "of the coordinator to each worker") == ["96"]
    assert "workers" not in both.partition("Citus")[0]


def test_the_rate_of_the_nearest_limit_and_none_above_it_fits_on_one_machine():
    limits = sorted(common_limits(ALONE, MACHINE) + server_limits(ALONE, MACHINE), key=lambda limit: limit.rate)
    assert limits[0].name == "disk"
    assert limits[0].rate == pytest.approx(4e12 / (5_400 * 400 + (7 * 86_400 - 5_400) * 300))
    fitting, too_many = int(limits[0].rate) - 1, int(limits[0].rate) + 2
    sampling = tables([ALONE], MACHINE, [fitting, too_many, 10 * fitting])["sampling"]
    kept = [line.split(" | ")[2] for line in sampling.splitlines()[2:]]
    assert kept[0] == "100 %" and kept[1] == "100.0 %: disk" and kept[2] == "10.0 %: disk"


def test_measured_layouts_are_replaced_by_name_and_the_document_follows(tmp_path, monkeypatch):
    monkeypatch.setattr(worksheet, "FILE", tmp_path / "measured.json")
    monkeypatch.setattr(worksheet, "DOCUMENT", tmp_path / "scale.md")
    worksheet.FILE.write_text("[]")
    names = ("measured", "sizes", "limits", "sampling")
    worksheet.DOCUMENT.write_text(
        "before\n" + "between\n".join(worksheet.block(name, "outdated") for name in names) + "after\n"
    )
    worksheet.write([CITUS, ALONE])
    worksheet.write([replace(ALONE, values={**VALUES, "closed_bytes": 100})])
    layouts = worksheet.read()
    assert [layout.name for layout in layouts] == ["2 promscales", "2 promscales, 2 workers"]
    text = worksheet.DOCUMENT.read_text()
    assert all(worksheet.block(name, table) in text for name, table in tables(layouts).items())
    assert "outdated" not in text
    assert text.startswith("before\n") and text.endswith("after\n") and text.count("between\n") == 3
