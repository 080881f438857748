"""Changes the running demo by the API of the part `faults`: what `./run.sh faults`, `load`, `sampling`, `case` and
`solve` do."""

import http.client
import json
import shutil
import textwrap
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from faults.cases import report
from faults.flags import HIDDEN
from local import CommandError
from local.arguments import Parser
from telemetry.services import FAULTS_PORT

TIMEOUT_SECONDS = 10
_LEAST_WIDTH = 30  # of the descriptions


class FaultsAPI:
    """The API at an address. A change sends the token. Every method raises CommandError."""

    def __init__(self, address: str, token: str) -> None:
        self._url = f"http://{address}:{FAULTS_PORT}"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def in_effect(self) -> dict[str, Any]:
        """{"flags": {name: ...}, "load": {...}, "sampling": {...}, "case": {...}}."""
        return self._ask("/flags")

    def change(self, body: Mapping[str, object]) -> None:
        self._ask("/flags", body)

    def case(self) -> dict[str, Any]:
        """The state of the case, as faults.cases.report takes it. So do the next three."""
        return self._ask("/case")

    def start_case(self, seed: str) -> dict[str, Any]:
        return self._ask("/case", {"seed": seed})

    def solve(self, service: str, fault: str) -> dict[str, Any]:
        return self._ask("/case/solve", {"service": service, "fault": fault})

    def give_up(self) -> dict[str, Any]:
        return self._ask("/case/give-up", {})

    def _ask(self, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {} if body is None else self._headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                content: dict[str, Any] = json.load(answer)
                return content
        except urllib.error.HTTPError as refusal:
            raise CommandError(_reason(refusal)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CommandError(
                f"the part faults does not answer at {self._url} ({error}); ./run.sh status shows what is running"
            ) from None


def _reason(refusal: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(refusal)["error"])
    except (ValueError, KeyError, TypeError):
        return f"the part faults answers with status {refusal.code}; ./run.sh logs faults may say why"


def set_body(words: Sequence[str]) -> dict[str, object]:
    """The change by pairs of a flag and its variant. Raises CommandError."""
    if not words or len(words) % 2:
        raise CommandError("faults set takes pairs of a flag and its variant: ./run.sh faults set digit.errors strong")
    return {"set": dict(zip(words[::2], words[1::2], strict=True))}


def options(command: str, words: Sequence[str], names: Sequence[str]) -> dict[str, str | None]:
    """The values of options such as --users 10, by their names; None for an empty one. Raises CommandError."""
    parser = Parser(command)
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=name[0].upper())
    return {name: value or None for name, value in vars(parser.parse_args(words)).items() if value is not None}


def faults_table(state: Mapping[str, Any]) -> str:
    """A row per fault, wrapped to the terminal. Those that are not at their default have a *."""
    flags = state["flags"]
    rows = [
        (name, flag["variant"], flag["default"], ", ".join(flag["variants"]), flag["description"])
        for name, flag in flags.items()
    ]
    changed = {name for name, variant, default, *_ in rows if variant not in (default, HIDDEN)}
    titles = ("flag", "state", "default", "variants", "description")
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)][:-1]
    indent = 2 + sum(widths) + 2 * len(widths)
    width = max(shutil.get_terminal_size((120, 24)).columns, indent + _LEAST_WIDTH)
    lines = []
    for *cells, description in (titles, *rows):
        mark = "* " if cells[0] in changed else "  "
        begin = mark + "".join(f"{cell:{size}}  " for cell, size in zip(cells, widths, strict=True))
        lines.append(textwrap.fill(description, width, initial_indent=begin, subsequent_indent=" " * indent))
    summary = f"* not at its default: {len(changed)} of {len(rows)}" if changed else "All faults are at their defaults."
    if state["case"]["open"]:
        summary = report(state["case"])
    return "\n".join([*lines, "", summary, load_report(state), sampling_report(state)])


def load_report(state: Mapping[str, Any]) -> str:
    users, rate, seed = (state["load"][name] for name in ("users", "rate", "seed"))
    return f"load: {users} users, {rate} requests per second of all together, seed {'none' if seed is None else seed}"


def sampling_report(state: Mapping[str, Any]) -> str:
    percent, latency_ms = (state["sampling"][name] for name in ("percent", "tail_latency_ms"))
    decided = "decided by OTEL_TRACES_SAMPLER: all traces, if it is not set" if percent is None else f"{percent} %"
    others = "" if latency_ms is None else f"; and others with an error, or that last {latency_ms} ms or more"
    return f"sampling: {decided}{others}"


REPORTS = {"load": load_report, "sampling": sampling_report}
