#!/usr/bin/env bash
# The one command of the tracing demo; `./run.sh help` lists what it does. This file only prepares the Python environment:
# it finds a Python and has .venv created. Everything else is in local/.
# Only builtins of bash, and only those of bash 3.2, the version of macOS.
set -euo pipefail

root=${BASH_SOURCE[0]%/*}
[ "$root" != "${BASH_SOURCE[0]}" ] || root=.
root=$(CDPATH='' cd -- "$root" && pwd -P)
# Python splits PYTHONPATH at colons, and PostgreSQL's initdb passes the path of a program to a shell.
for character in : '"' '$' '`' \\ $'\n'; do
    if [[ $root = *"$character"* ]]; then
        printf 'run.sh: the path of this checkout, %q, contains the character %q, which Python or PostgreSQL cannot handle;' \
            "$root" "$character" >&2
        echo " move the checkout to another path" >&2
        exit 1
    fi
done
# The user's variables for Python and PostgreSQL are meant for other interpreters and databases.
for name in ${!PYTHON*} ${!PG*}; do unset "$name"; done
# Import the packages of this checkout from whatever folder this is called in, and (-P, below) not those of that folder.
export PYTHONPATH=$root PYTHONUNBUFFERED=1

find_python() {
    local name version found=""
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        # Execute it: a name on the PATH may be a shim, as of pyenv, without an interpreter.
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

# .venv/local.txt is a copy of the requirements, written after all of them were installed.
if ! [ -x "$root/.venv/bin/python" ] ||
    [ "$(<"$root/requirements/local.txt")" != "$({ echo "$(<"$root/.venv/local.txt")"; } 2>/dev/null)" ]; then
    find_python
    "$python" -P -m local.environment
fi
SETUP_SECONDS=$SECONDS exec "$root/.venv/bin/python" -P -m local "$@"
