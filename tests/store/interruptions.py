"""Interruptions of promscale's upkeep at a known step of its work."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg

from promscale.store import StoreUnavailable
from tests.waiting import wait_until

UPKEEP = "application_name = 'promscale-upkeep' and datname = current_database()"


def is_waiting_for_lock(database: psycopg.Connection, application: str) -> bool:
    """Whether a session of that application_name waits for a lock. `database` must be in autocommit mode."""
    waiting = """
        select from pg_stat_activity
        where application_name = %s and datname = current_database() and wait_event_type = 'Lock'
    """
    return database.execute(waiting, [application]).fetchone() is not None


def kill_upkeep(database: psycopg.Connection, condition: str = "true") -> bool:
    """End the sessions of promscale's upkeep that fulfil the condition; returns whether there were any."""
    statement = f"select pg_terminate_backend(pid) from pg_stat_activity where {UPKEEP} and {condition}"
    return bool(database.execute(statement).fetchall())


def kill_upkeep_at_lock(dsn: str, lock: str, work: Callable[[], object]) -> bool:
    """Run `work`, which does upkeep, and end its session where it waits for a lock that the statement `lock` takes.

    Returns False if `work` ended without such a wait, or by its lock timeout.
    """
    with (
        psycopg.connect(dsn) as holder,
        psycopg.connect(dsn, autocommit=True) as database,
        ThreadPoolExecutor(1) as pool,
    ):
        holder.execute(lock)
        running = pool.submit(work)
        wait_until(lambda: kill_upkeep(database, "wait_event_type = 'Lock'") or running.done(), "a wait for the lock")
        try:
            running.result()
        except StoreUnavailable:
            return True
        return False
