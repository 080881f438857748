"""Becomes a part of the local stack: `python -I local/part.py NAME`, which supervisord calls in the checkout.

What the part is, stands in .data/parts.json, which `stack` writes. It is read at each start, so that a part that is
ended comes back with changed settings. Of the environment that this is called in, the part gets only what supervisord
adds. The standard library only.
"""

import json
import os
import pwd
import resource
import sys


def main(name: str) -> None:
    with open(".data/parts.json") as file:
        part = json.load(file)["parts"][name]
    supervisords = {name: value for name, value in os.environ.items() if name.startswith("SUPERVISOR_")}
    if part["memory_bytes"]:
        _limit_memory(part["memory_bytes"])
    if part["user"] != os.getuid():
        account = pwd.getpwuid(part["user"])
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    os.execve(part["command"][0], part["command"], {**part["environment"], **supervisords})


def _limit_memory(size: int) -> None:
    """Allocations above it fail. On Linux; macOS counts hardly anything for this limit."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (size if most == resource.RLIM_INFINITY else min(size, most), most))


if __name__ == "__main__":
    main(sys.argv[1])
