"""supervisord with a poll interval of 0.2 s instead of 1 s: `python -m local.supervisord`.

supervisord starts its first process only after the first interval, and while it shuts down it stops at most one process
or group per interval. The shorter one saves about a second at start and five at stop.
"""

from supervisor import poller, supervisord

POLL_SECONDS = 0.2


class BriskPoller(poller.Poller):
    def poll(self, timeout: float) -> tuple[list[int], list[int]]:
        return super().poll(min(timeout, POLL_SECONDS))


if __name__ == "__main__":
    poller.Poller = BriskPoller
    supervisord.main()
