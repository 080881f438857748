"""The commands and statements in the documents, run as they are written."""

import os
import shlex
import subprocess
import sys

import pytest

from tests.documents import CHECKOUT, DOCUMENTS, code_blocks
from tests.waiting import wait_until

README = CHECKOUT / "README.md"
PSQL = sorted(
    {
        line.removeprefix("$ ")
        for document in DOCUMENTS
        for language in ("sh", "console")
        for block in code_blocks(document, language)
        for line in block.splitlines()
        if line.removeprefix("$ ").startswith("./run.sh psql -")
    }
)
STATEMENTS = [line for block in code_blocks(README, "sql") for line in block.splitlines()]
OWN_SPANS = code_blocks(README, "python")


@pytest.mark.parametrize("command", PSQL)
def test_psql_runs_each_command(own_stack, command):
    arguments = shlex.split(command, comments=True)[2:]
    done = own_stack.checkout.run("psql", "-v", "ON_ERROR_STOP=1", *arguments, cwd=own_stack.checkout.folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("statement", STATEMENTS)
def test_postgresql_runs_each_statement_of_the_readme(own_stack, statement):
    own_stack.rows(statement)


@pytest.mark.parametrize("program", OWN_SPANS)
def test_spans_of_ones_own_are_stored(own_stack, program):
    subprocess.run([sys.executable, "-c", program], env={"PATH": os.environ["PATH"]}, check=True, timeout=60)
    stored = "select span_name, span_tags ->> 'items' from ps_trace.span where service_name = 'shop'"
    wait_until(lambda: own_stack.rows(stored) == [("checkout", "3")], "the span of the example")
