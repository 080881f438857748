"""How promscale connects to its database."""

from psycopg.conninfo import conninfo_to_dict, make_conninfo

# Whatever is set for its role or database: a `set` of somebody's that outlasts sessions must not stop promscale.
_SETTINGS = {
    "search_path": "public",
    "default_transaction_read_only": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}


def conninfo(uri: str, application_name: str) -> str:
    """libpq's connection string for this URI, or other connection string, with promscale's own settings.

    Raises psycopg.ProgrammingError where it is none.
    """
    given = conninfo_to_dict(uri).get("options") or ""
    settings = " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())
    options = f"{given} {settings}".lstrip()
    return make_conninfo(uri, options=options, application_name=application_name, connect_timeout=5)
