"""A full disk is reported, and costs nothing that was acknowledged."""

import json
import logging
import os
import socket
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
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from local.postgres import account
from promscale.web import Web
from tests.hostile import outcomes
from tests.stack.checkout import wait_for
from tests.store.otlp_messages import request, span
from tests.store.running import Promscale


@pytest.fixture
def small_disk(postgres_uri, superuser_uri):
    """A connection string to a database on a disk of 24 MB, and a function that makes the disk larger."""
    if os.getuid() != 0 or os.environ.get("TEST_POSTGRES_URI"):
        pytest.skip("only root can mount a small disk, and only for a PostgreSQL that the tests started")
    # Not below pytest's folders, which PostgreSQL's user cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="small-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    os.chown(folder, account().pw_uid, account().pw_gid)
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(superuser_uri, autocommit=True) as connection:
        try:
            connection.execute(f"create tablespace {name} location '{folder}'")
            connection.execute(
                sql.SQL("create database {0} owner postgres tablespace {0}").format(sql.Identifier(name))
            )
            yield (
                make_conninfo(**conninfo_to_dict(postgres_uri) | {"dbname": name}),
                lambda: subprocess.run(["mount", "-o", "remount,size=200m", folder], check=True),
            )
        finally:
            connection.execute(f"drop database if exists {name} with (force)")
            connection.execute("checkpoint")  # or files of the dropped database keep the tablespace in use
            connection.execute(f"drop tablespace if exists {name}")
            subprocess.run(["umount", folder], check=True)
            folder.rmdir()


@pytest.fixture
def unused_address():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def readiness(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{url}/readyz") as answer:
            return answer.status, json.load(answer)["status"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["status"]


def test_a_full_disk_is_reported_and_loses_nothing(small_disk, caplog, unused_address):
    dsn, enlarge = small_disk
    caplog.set_level(logging.WARNING)
    promscale = Promscale(dsn)
    web = Web(promscale.store, unused_address)
    web.serve()
    url = f"http://{unused_address}"
    try:
        assert readiness(url) == (200, "ok")
        acknowledged = 0
        message = None
        for _ in range(500):
            message = request(*(span(tags={"fill": os.urandom(200).hex()}) for _ in range(200)))
            try:
                promscale.export(message)
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE
                assert "No space left on device" in error.details()
                break
            acknowledged += 200
        else:
            pytest.fail("the small disk took 100,000 spans")
        code, status = readiness(url)
        assert code == 503 and "No space left on device" in status and "\n" not in status
        for _ in range(5):
            with pytest.raises(grpc.RpcError):
                promscale.export(message)
        assert sum("No space left on device" in record.getMessage() for record in caplog.records) == 1
        count = "select count(*) from ps_trace.span"
        with psycopg.connect(dsn) as connection:
            assert connection.execute(count).fetchone() == (acknowledged,)
        enlarge()
        promscale.export(message)
        wait_for(lambda: readiness(url) == (200, "ok"), "readiness")
        with psycopg.connect(dsn) as connection:
            assert connection.execute(count).fetchone() == (acknowledged + 200,)
        outcomes.note("a disk of 24 MB, filled", f"reported, and all {acknowledged:,} acknowledged spans stored")
    finally:
        web.close()
        promscale.close()
