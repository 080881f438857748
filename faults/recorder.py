"""Records the ground truth: which variants of the flags were on, and when, in the table demo.fault (schema.sql).

Every change of the flag file is first noted in a journal beside it, changes.jsonl, with the file's time of
modification, and then recorded in the database. So the truth is complete also when the database is away, or when this
process is killed: what the journal has is recorded later, with its true time, and once. In the same way, what is on
while a case is open (cases.py) is recorded when the case has ended.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import aiosql
import psycopg
from psycopg.rows import namedtuple_row

from faults.flags import CASE, FlagError, FlagFile, replace_content

POLL_SECONDS = 0.25  # how often the file is checked for changes that were made by hand
RETRY_SECONDS = 1
CONNECT_SECONDS = 3

SCHEMA = Path(__file__).with_name("schema.sql").read_bytes()
_STATEMENTS = aiosql.from_path(Path(__file__).with_name("recorder.sql"), "psycopg")
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_log = logging.getLogger("faults")


class State(NamedTuple):
    """What is on from a time on: variants that do something, by their flags."""

    time: datetime
    seed: int | None
    variants: dict[str, str]


class Recorder:
    """Notes the changes of a flag file, and records them in the database at `uri`. `seed` is that of DEMO_SEED.

    Both happen in threads, from `start` on. What the file has at the start is a change as well.
    """

    def __init__(self, file: FlagFile, uri: str, seed: int | None) -> None:
        self._file = file
        self._uri = uri
        self._seed = seed
        self._journal = file.path.with_name("changes.jsonl")
        self._noted_at = 0  # the file's time of modification, in nanoseconds
        self._waiting = _read_journal(self._journal)
        self._last_time = self._waiting[-1].time if self._waiting else _LONG_AGO
        self._changed = threading.Condition()  # guards all of the above

    def start(self) -> None:
        """Raises OSError, FlagError."""
        self._note()
        for target in (self._watch, self._record):
            threading.Thread(target=target, daemon=True).start()

    @contextmanager
    def change(self) -> Iterator[FlagFile]:
        """The body changes the file. After it, the change is noted, and will be recorded. Raises OSError, FlagError."""
        with self._changed:
            with suppress(FlagError):  # the body finds it as well, or replaces the file
                self._note()  # what was changed by hand until now
            yield self._file
            self._note()

    def latest(self, number: int) -> list[Any]:
        """The latest changes, as rows of demo.fault_change. Those that wait are recorded before it, if they can be.

        Raises psycopg.Error.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._recordable(), timeout=RETRY_SECONDS)
        with psycopg.connect(self._uri, connect_timeout=CONNECT_SECONDS, row_factory=namedtuple_row) as connection:
            connection.execute("set statement_timeout = '5s'")
            return list(_STATEMENTS.latest_changes(connection, number=number))

    def _note(self) -> None:
        """Append the file's present state to the journal, if the file has changed."""
        with self._changed:
            modified = self._file.path.stat().st_mtime_ns
            if modified == self._noted_at:
                return
            state = self._state(modified)
            with self._journal.open("a") as journal:
                journal.write(json.dumps({**state._asdict(), "time": state.time.isoformat()}) + "\n")
            self._noted_at, self._last_time = modified, state.time
            self._waiting.append(state)
            self._changed.notify_all()

    def _state(self, modified: int) -> State:
        flags = self._file.flags()
        seed = flags["load"].parameters.get("seed", self._seed)
        now, changed = datetime.now(UTC), datetime.fromtimestamp(modified // 1000 / 10**6, UTC)
        if not self._last_time < changed <= now:  # an edit by hand may set any time
            changed = max(now, self._last_time + _MICROSECOND)
        return State(changed, seed, {name: flag.variant for name, flag in flags.items() if flag.parameters})

    def _watch(self) -> None:
        logged = ""
        while True:
            time.sleep(POLL_SECONDS)
            try:
                self._note()
                logged = ""
            except (OSError, FlagError) as error:
                if str(error) != logged:
                    _log.error("A change is not recorded: %s", error)
                logged = str(error)

    def _recordable(self) -> list[State]:
        """The states that wait, without those of an open case."""
        number = len(self._waiting)
        while number and CASE in self._waiting[number - 1].variants:
            number -= 1
        return self._waiting[:number]

    def _record(self) -> None:
        logged = ""
        while True:
            with self._changed:
                self._changed.wait_for(self._recordable)
                states = self._recordable()
                present = len(states) == len(self._waiting)
            try:
                with psycopg.connect(self._uri, connect_timeout=CONNECT_SECONDS) as connection:
                    connection.execute(SCHEMA)
                    record(connection, states, present)
            except psycopg.Error as error:
                reason = str(error).splitlines()[0]
                if reason != logged:
                    _log.warning("Changes wait in %s until the database takes them: %s", self._journal.name, reason)
                logged = reason
                time.sleep(RETRY_SECONDS)
            else:
                logged = ""
                self._recorded(len(states))

    def _recorded(self, number: int) -> None:
        with self._changed:
            del self._waiting[:number]
            lines = self._journal.read_text().splitlines(keepends=True)[number:]
            replace_content(self._journal, "".join(lines))
            self._changed.notify_all()
        _log.info("Recorded in demo.fault; number of changes: %d", number)


def record(connection: psycopg.Connection, states: Sequence[State], present: bool = True) -> None:
    """Record consecutive states, of which the last may be the present one, in one transaction. Raises psycopg.Error.

    States that are recorded already change nothing: those that are not after the last recorded change are skipped.
    Where the present one is among these and yet differs from what is recorded, because the file or the database was
    replaced, it begins now.
    """
    for state in states:
        last = _STATEMENTS.last_change(connection)
        begin = state.time
        if last and begin <= last:
            if not present or state is not states[-1]:
                continue
            begin = max(datetime.now(UTC), last + _MICROSECOND)
        values = {
            "time": begin,
            "seed": state.seed,
            "flags": list(state.variants),
            "variants": list(state.variants.values()),
        }
        _STATEMENTS.end_faults(connection, **values)
        _STATEMENTS.begin_faults(connection, **values)


def _read_journal(path: Path) -> list[State]:
    """The states that a former process has noted and not recorded.

    A last line without an end is removed: the process was killed while it wrote, and `start` notes that state again.
    """
    text = path.read_text() if path.exists() else ""
    complete = text[: text.rfind("\n") + 1]
    if complete != text:
        path.write_text(complete)
    states = [json.loads(line) for line in complete.splitlines()]
    return [State(datetime.fromisoformat(state["time"]), state["seed"], state["variants"]) for state in states]
