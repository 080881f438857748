"""./run.sh local in a shell with variables for other programs, and again with other settings."""

import contextlib
import os
from datetime import UTC, datetime

import psutil

from local import encoder, health
from telemetry.services import SERVICES
from tests.waiting import wait_until

# Variables that a user may have set for other programs. Each of them would stop a part from working.
FOREIGN = {
    "PGSSLMODE": "require",
    "PGSERVICE": "production",
    "PGOPTIONS": "-c no_such_setting=1",
    "GUNICORN_CMD_ARGS": "--bind=127.0.0.1:1",
    "WEB_CONCURRENCY": "none",
    "OTEL_SDK_DISABLED": "true",
    "OTEL_SERVICE_NAME": "mine",
    "OTEL_RESOURCE_ATTRIBUTES": "service.name=mine,deployment.environment.name=test",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1",
    "OTEL_EXPORTER_OTLP_HEADERS": "a=b",
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_PROPAGATORS": "none",
    "PYTHONHOME": "/nowhere",
    "PYTHONSTARTUP": "/nowhere",
    "PYTHONPATH": "/nowhere",
    "ROTEL_EXPORTER": "blackhole",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "http_proxy": "http://127.0.0.1:1",
}


def test_variables_for_other_programs_reach_no_part(own_stack):
    own_stack.restart(**FOREIGN)
    try:
        answer = own_stack.checkout.run("psql", "-Atc", "select 'answered'", env=os.environ | FOREIGN)
        assert answer.stdout == "answered\n", answer.stderr
        own_stack.checkout.wait_until_healthy(env=os.environ | FOREIGN)
        names = """
            select array_agg(distinct service_name order by service_name) from ps_trace.span
            where resource_tags ->> 'deployment.environment.name' = 'test'
        """
        services = sorted([*SERVICES, "load"])
        wait_until(lambda: own_stack.rows(names) == [(services,)], "spans of all services, with their own names")
        for process in own_stack.checkout.processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # one of PostgreSQL's sessions has ended meanwhile
                environment = process.environ()
                inherited = {name for name, value in FOREIGN.items() if environment.get(name) == value}
                assert inherited <= {"OTEL_RESOURCE_ATTRIBUTES"}
    finally:
        own_stack.restart()


def test_the_encoder_is_a_setting_and_in_the_status(own_stack):
    default = "rust" if encoder.is_built() else "python"
    assert f"encoder: {default}\n" in own_stack.checkout.run("status").stdout
    changed = own_stack.checkout.run("local", env=os.environ | {"PROMSCALE_ENCODER": "python"})
    assert changed.returncode == 0, changed.stderr
    assert "encoder: python\n" in own_stack.checkout.run("status").stdout
    restored = own_stack.checkout.run("local", env=os.environ | {"PROMSCALE_ENCODER": ""})
    assert restored.returncode == 0, restored.stderr
    assert f"encoder: {default}\n" in own_stack.checkout.run("status").stdout


def test_a_changed_setting_restarts_the_parts_that_use_it(own_stack):
    def users() -> str | None:
        return psutil.Process(int(own_stack.healthy_pids()["load"])).environ().get("LOAD_USERS")

    before = own_stack.healthy_pids()
    changed = own_stack.checkout.run("local", env=os.environ | {"LOAD_USERS": "6"})
    assert changed.returncode == 0, changed.stderr
    assert "Restarting the parts with changed settings or code: faults, load\n" in changed.stdout
    after = own_stack.healthy_pids()
    assert {name for name in before if before[name] != after[name]} == {"faults", "load"}
    wait_until(lambda: users() == "6", "load with its new setting")

    kept = own_stack.checkout.run("local")
    assert "already running" in kept.stdout
    assert users() == "6"

    default = own_stack.checkout.run("local", env=os.environ | {"LOAD_USERS": ""})
    assert default.returncode == 0, default.stderr
    wait_until(lambda: users() == "", "load with the default")


def test_changed_code_restarts_its_service(own_stack):
    before = own_stack.healthy_pids()
    file = own_stack.checkout.folder / "digit" / "app.py"
    code = file.read_text()
    for changed in (f"{code}\n# changed\n", code):
        file.write_text(changed)
        started = own_stack.checkout.run("local")
        assert started.returncode == 0, started.stderr
        assert "Restarting the parts with changed settings or code: digit\n" in started.stdout
        after = own_stack.healthy_pids()
        assert {name for name in before if before[name] != after[name]} == {"digit"}
        before = after


def test_a_start_without_instrumentation_says_that_there_are_no_traces(own_stack):
    try:
        untraced = own_stack.checkout.run("local", env=os.environ | {"DEMO_INSTRUMENTATION": "off"})
        assert untraced.returncode == 0, untraced.stderr
        assert "There are no traces, because DEMO_INSTRUMENTATION is off.\n" in untraced.stdout
        begin = datetime.now(UTC)
        automatic = own_stack.checkout.run("local", env=os.environ | {"DEMO_INSTRUMENTATION": "auto"})
        assert automatic.returncode == 0, automatic.stderr
        assert "to the first trace in the database" in automatic.stdout
        kinds = "select distinct span_kind::text from ps_trace.span where start_time > %s order by 1"
        assert own_stack.rows(kinds, begin) == [("client",), ("server",)]
    finally:
        restored = own_stack.checkout.run("local", env=os.environ | {"DEMO_INSTRUMENTATION": ""})
    assert restored.returncode == 0, restored.stderr


def test_a_changed_address_applies_to_everything_but_the_database(own_stack):
    before = own_stack.healthy_pids()
    refused = own_stack.checkout.run("local", env=os.environ | {"BIND_ADDRESS": "203.0.113.1"})
    assert "cannot listen on 203.0.113.1:" in refused.stderr
    assert own_stack.healthy_pids() == before
    try:
        changed = own_stack.checkout.run("local", env=os.environ | {"BIND_ADDRESS": "127.0.0.2"})
        assert changed.returncode == 0, changed.stderr
        url = f"http://127.0.0.2:{SERVICES['generator']}/healthz"
        wait_until(lambda: health.answers(url), "the generator at its new address")
        assert not health.answers(f"http://127.0.0.1:{SERVICES['generator']}/healthz")
        after = own_stack.healthy_pids()
        assert {name for name in before if before[name] == after[name]} == {"supervisord", "postgres"}
    finally:
        own_stack.restart()
