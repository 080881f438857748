"""./run.sh local from a shell with odd variables, and again with other settings."""

import os

import psutil

from local import health
from tests.stack.checkout import wait_for

# What a user may have set for other programs. Each of the first lines stopped a part from working once.
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
    own_stack.start_anew(**FOREIGN)
    try:
        asked = own_stack.checkout.run("psql", "-Atc", "select 'answered'", env=os.environ | FOREIGN)
        assert asked.stdout == "answered\n", asked.stderr
        assert own_stack.checkout.run("status", env=os.environ | FOREIGN).returncode == 0
        names = """
            select array_agg(distinct service_name order by service_name) from ps_trace.span
            where resource_tags ->> 'deployment.environment.name' = 'test'
        """
        services = ["digit", "generator", "load", "lower", "special", "upper"]
        wait_for(lambda: own_stack.rows(names) == [(services,)], "spans of all, under their own names")
        for process in own_stack.checkout.processes():
            found = process.environ()
            assert {name for name in FOREIGN if found.get(name) == FOREIGN[name]} <= {"OTEL_RESOURCE_ATTRIBUTES"}
    finally:
        own_stack.start_anew()


def test_a_changed_setting_restarts_the_parts_that_it_is_for(own_stack):
    def users() -> str | None:
        return psutil.Process(int(wait_for(own_stack.pids, "health")["load"])).environ().get("LOAD_USERS")

    before = wait_for(own_stack.pids, "health")
    changed = own_stack.checkout.run("local", env=os.environ | {"LOAD_USERS": "6"})
    assert changed.returncode == 0, changed.stderr
    assert "Restarting what has other settings now: load\n" in changed.stdout
    after = wait_for(own_stack.pids, "health")
    assert {name for name in before if before[name] != after[name]} == {"load"}
    assert users() == "6"

    kept = own_stack.checkout.run("local")
    assert "running already" in kept.stdout
    assert users() == "6"

    default = own_stack.checkout.run("local", env=os.environ | {"LOAD_USERS": ""})
    assert default.returncode == 0, default.stderr
    assert users() == ""


def test_a_changed_address_is_that_of_everything_but_the_database(own_stack):
    before = wait_for(own_stack.pids, "health")
    refused = own_stack.checkout.run("local", env=os.environ | {"BIND_ADDRESS": "203.0.113.1"})
    assert "cannot listen on 203.0.113.1:" in refused.stderr
    assert wait_for(own_stack.pids, "health") == before
    try:
        changed = own_stack.checkout.run("local", env=os.environ | {"BIND_ADDRESS": "127.0.0.2"})
        assert changed.returncode == 0, changed.stderr
        assert health.answers("http://127.0.0.2:5050/healthz")
        assert not health.answers("http://127.0.0.1:5050/healthz")
        after = wait_for(own_stack.pids, "health")
        assert {name for name in before if before[name] == after[name]} == {"supervisord", "postgres"}
    finally:
        own_stack.start_anew()
