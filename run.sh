#!/usr/bin/env bash
# The tracing demo's one command; `./run.sh help` says what it can do. Here is only what must be done before there is a
# Python environment of our own: finding a Python, and having .venv made. All else is in local/.
# Bash's own commands only, and those of bash 3.2, which macOS has.
set -euo pipefail

root=${BASH_SOURCE[0]%/*}
[ "$root" != "${BASH_SOURCE[0]}" ] || root=.
root=$(CDPATH= cd -- "$root" && pwd -P)
# Python splits lists of paths at the first, and PostgreSQL's initdb calls a program by its path in a shell.
for character in : '"' '$' '`' '\' $'\n'; do
    if [[ $root = *"$character"* ]]; then
        printf 'run.sh: the path of this checkout, %q, has the character %q in it, which Python or PostgreSQL cannot stand;' \
            "$root" "$character" >&2
        echo " move it elsewhere" >&2
        exit 1
    fi
done
# Those of the user's shell are for other interpreters and other databases.
for name in ${!PYTHON*} ${!PG*}; do unset "$name"; done
# The packages are found from whatever folder this is called in, and (-P, below) only here.
export PYTHONPATH=$root PYTHONUNBUFFERED=1

find_python() {
    local name version found=""
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        # Really run, because a name on the PATH may be a shim with nothing behind it.
        version=$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        case $version in
            3.11 | 3.12 | 3.13 | 3.14)
                if "$name" -c 'import ensurepip, venv' 2>/dev/null; then
                    python=$name
                    return
                fi
                found+=" $name is $version, but without its venv module (on Debian and Ubuntu: apt install python3-venv);"
                ;;
            *) found+=" $name is $version;" ;;
        esac
    done
    echo "run.sh: needs Python 3.11 to 3.14; found:${found:- none;} install one and run this again" >&2
    exit 1
}

# .venv/local.txt is the copy of the requirements that is written when all of them are installed.
if ! [ -x "$root/.venv/bin/python" ] ||
    [ "$(<"$root/requirements/local.txt")" != "$({ echo "$(<"$root/.venv/local.txt")"; } 2>/dev/null)" ]; then
    find_python
    "$python" -P -m local.environment
fi
SETUP_SECONDS=$SECONDS exec "$root/.venv/bin/python" -P -m local "$@"
