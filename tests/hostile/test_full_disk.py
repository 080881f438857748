"""A full disk is reported, and no acknowledged span is lost."""

import json
import logging
import os
import random
import subprocess
import tempfile
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import grpc
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from local.postgres import account
from tests.hostile import outcomes
from tests.store.otlp_messages import request, span
from tests.store.running import Promscale
from tests.waiting import wait_until

SPANS = 200  # of an export


@pytest.fixture
def small_disk(postgres_uri, superuser_uri):
    """A connection string to a database on a disk of 24 MB, and a function that makes the disk larger."""
    if os.getuid() != 0 or os.environ.get("TEST_POSTGRES_URI"):
        pytest.skip("only root can mount a small disk, and only for a PostgreSQL that the tests started")
    # Outside of pytest's folders, to which PostgreSQL's user has no access.
    folder = Path(tempfile.mkdtemp(prefix="small-disk-"))
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True, text=True)
    if mount.returncode:
        folder.rmdir()
        pytest.skip(f"a small disk cannot be mounted here: {mount.stderr.strip()}")
    os.chown(folder, account().pw_uid, account().pw_gid)
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(superuser_uri, autocommit=True) as connection:
        try:
            connection.execute(f"create tablespace {name} location '{folder}'")
            connection.execute(
                sql.SQL("create database {0} owner postgres tablespace {0}").format(sql.Identifier(name))
            )
            yield (
                make_conninfo(postgres_uri, dbname=name),
                lambda: subprocess.run(["mount", "-o", "remount,size=200m", folder], check=True),
            )
        finally:
            connection.execute(f"drop database if exists {name} with (force)")
            # Deletes the files of the dropped database, which would keep the tablespace in use.
            connection.execute("checkpoint")
            connection.execute(f"drop tablespace if exists {name}")
            subprocess.run(["umount", folder], check=True)
            folder.rmdir()


def readiness(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{url}/readyz") as response:
            return response.status, json.load(response)["status"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["status"]


def export_until_error(promscale, messages) -> tuple[int, grpc.RpcError]:
    """How many messages were acknowledged, and the error of the next."""
    for number, message in enumerate(messages):
        try:
            promscale.export(message)
        except grpc.RpcError as error:
            return number, error
    pytest.fail("the small disk had room for all spans")


def test_a_full_disk_is_reported_and_loses_nothing(small_disk, caplog):
    dsn, enlarge = small_disk
    dice = random.Random(5)
    # More than the disk has room for; random, because equal texts would be compressed.
    messages = [request(*(span(tags={"fill": dice.randbytes(200).hex()}) for _ in range(SPANS))) for _ in range(300)]
    caplog.set_level(logging.WARNING)
    promscale = Promscale(dsn)
    url = f"http://127.0.0.1:{promscale.web.port}"
    try:
        wait_until(lambda: readiness(url) == (200, "ok"), "readiness")
        acknowledged, error = export_until_error(promscale, messages)
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert "No space left on device" in error.details()
        refused = messages[acknowledged]
        code, status = readiness(url)
        assert code == 503 and "No space left on device" in status and "\n" not in status
        for _ in range(5):
            with pytest.raises(grpc.RpcError):
                promscale.export(refused)
        assert sum("No space left on device" in record.getMessage() for record in caplog.records) == 1
        count = "select count(*) from ps_trace.span"
        with psycopg.connect(dsn) as connection:
            assert connection.execute(count).fetchone() == (SPANS * acknowledged,)
        enlarge()
        promscale.export(refused)
        wait_until(lambda: readiness(url) == (200, "ok"), "readiness")
        with psycopg.connect(dsn) as connection:
            assert connection.execute(count).fetchone() == (SPANS * (acknowledged + 1),)
        outcomes.note("a full disk of 24 MB", f"reported, and all {SPANS * acknowledged:,} acknowledged spans stored")
    finally:
        promscale.close()
