"""The commands, statements and programs in the documents, run as they are written."""

import os
import shlex
import subprocess
import sys

import pytest

from local import CHECKOUT
from tests.documents import DOCUMENTS, code_blocks
from tests.waiting import wait_until

README = CHECKOUT / "README.md"
LINES = sorted(
    {
        line.removeprefix("$ ")
        for document in DOCUMENTS
        for language in ("sh", "console")
        for block in code_blocks(document, language)
        for line in block.splitlines()
    }
)
PSQL = [line for line in LINES if line.startswith("./run.sh psql -")]
CURL = [line for line in LINES if line.startswith("curl ")]
STATEMENTS = [line for block in code_blocks(README, "sql") for line in block.splitlines()]
PROGRAMS = [program for document in DOCUMENTS if document != README for program in code_blocks(document, "python")]


@pytest.mark.parametrize("command", PSQL)
def test_psql_runs_each_command(own_stack, command):
    arguments = shlex.split(command, comments=True)[2:]
    done = own_stack.checkout.run("psql", "-v", "ON_ERROR_STOP=1", *arguments, cwd=own_stack.checkout.folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", CURL)
def test_curl_gets_what_each_command_requests(quiet_stack, command):
    # The services read the change within half a second, and a password may fail until then.
    curl = f"{command} --fail --silent"
    wait_until(lambda: subprocess.run(curl, shell=True, timeout=60).returncode == 0, command)


@pytest.mark.parametrize("statement", STATEMENTS)
def test_postgresql_runs_each_statement_of_the_readme(own_stack, statement):
    own_stack.rows(statement)


@pytest.mark.parametrize("statement", code_blocks(CHECKOUT / "docs" / "faults.md", "sql"))
def test_spans_have_the_labels_of_faults(own_stack, statement):
    wait_until(lambda: own_stack.rows(statement), "spans on which a fault took effect")


def run_python(program: str) -> None:
    environment = {"PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, env=environment, check=True, timeout=60)


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_python_program_runs(own_stack, program):
    run_python(program)


def test_spans_of_the_readmes_program_are_stored(own_stack):
    [program] = code_blocks(README, "python")
    run_python(program)
    stored = "select distinct span_name, span_tags ->> 'items' from ps_trace.span where service_name = 'shop'"
    wait_until(lambda: own_stack.rows(stored) == [("checkout", "3")], "the span of the README's program")
