"""Processes and files of a store that runs on this machine: CPU time, memory, disk use, and a sudden end."""

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_SECONDS = 1
KILLED_SECONDS = 60


@dataclass
class Usage:
    """Of a process and its descendants, during a measurement."""

    cpu_seconds: float
    peak_bytes: int  # of memory


class Meter(threading.Thread):
    """Measures processes, each with its descendants, from now until `stop`. Memory is sampled every `sample_seconds`.

    `own_cpu_seconds` is what the samples took.
    """

    def __init__(self, processes: Mapping[str, psutil.Process], sample_seconds: float = SAMPLE_SECONDS) -> None:
        super().__init__(daemon=True)
        self._processes = dict(processes)
        self._cpu_before = {name: cpu_seconds(process) for name, process in processes.items()}
        self._peaks = dict.fromkeys([*processes, "together"], 0)
        self.own_cpu_seconds = 0.0
        self._sample_seconds = sample_seconds
        self._stopped = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._stopped.wait(self._sample_seconds):
            sample = {name: memory_bytes(process) for name, process in self._processes.items()}
            sample["together"] = sum(sample.values())
            self._peaks = {name: max(peak, sample[name]) for name, peak in self._peaks.items()}
            self.own_cpu_seconds = time.thread_time()

    def cpu_seconds(self) -> dict[str, float]:
        """The CPU time of each process since the start of the measurement."""
        return {name: cpu_seconds(process) - self._cpu_before[name] for name, process in self._processes.items()}

    def stop(self) -> dict[str, Usage]:
        """The usage of each process, and of all of them `together`."""
        cpu = self.cpu_seconds()
        cpu["together"] = sum(cpu.values())
        self._stopped.set()
        self.join()
        return {name: Usage(cpu[name], peak) for name, peak in self._peaks.items()}


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process and its descendants, including those that have ended."""
    total = 0.0
    for member in _tree(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(member.cpu_times()[:4])
    return total


def memory_bytes(process: psutil.Process) -> int:
    """Memory of a process and its descendants: the proportional set size, or the resident set size outside of Linux."""
    total = 0
    for member in _tree(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            info = member.memory_full_info()
            total += getattr(info, "pss", info.rss)
    return total


def listening(port: int) -> psutil.Process | None:
    """The process that listens on a TCP port, if this user may see it."""
    for connection in psutil.net_connections("tcp"):
        if (
            connection.status == psutil.CONN_LISTEN
            and connection.laddr
            and connection.laddr.port == port
            and connection.pid
        ):
            return psutil.Process(connection.pid)
    return None


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL the processes and their descendants, and wait until none is left. Raises RuntimeError."""
    members = [member for process in processes for member in _tree(process)]
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    _, alive = psutil.wait_procs(members, timeout=KILLED_SECONDS)
    if alive:
        raise RuntimeError(f"after SIGKILL these processes are still there: {alive}")


def disk_bytes(folder: Path) -> int:
    """The space that is allocated for the files and folders in a folder, some of which may vanish meanwhile."""
    total = 0
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                total += (Path(parent) / name).lstat().st_blocks * 512
    return total


def _tree(process: psutil.Process) -> list[psutil.Process]:
    """The process, and after it its descendants."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
