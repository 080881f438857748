"""Executes a part of the local stack: `python -I local/part.py NAME`, which supervisord runs in the checkout.

The part's command, environment, user and memory limit are in .data/parts.json, which `stack` writes. The file is read
at each start, so that a restarted part gets changed settings. The part's environment is the one in the file plus the
variables that supervisord adds, and nothing of the environment of this process. The standard library only.
"""

import json
import os
import pwd
import resource
import sys
from pathlib import Path


def main(name: str) -> None:
    part = json.loads(Path(".data/parts.json").read_text())["parts"][name]
    added_by_supervisord = {name: value for name, value in os.environ.items() if name.startswith("SUPERVISOR_")}
    if part["memory_bytes"]:
        _limit_memory(part["memory_bytes"])
    if part["user"] != os.getuid():
        account = pwd.getpwuid(part["user"])
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    os.execve(part["command"][0], part["command"], {**part["environment"], **added_by_supervisord})


def _limit_memory(size: int) -> None:
    """Make allocations beyond this many bytes fail. On Linux only: macOS does not apply RLIMIT_DATA to most of them."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


if __name__ == "__main__":
    main(sys.argv[1])
