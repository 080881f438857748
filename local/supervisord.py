"""supervisord, which looks after its processes five times a second here, and not once: `python -m local.supervisord`.

As it first looks after the first of these seconds, and stops one process at most in each, that makes the start a second
shorter and the stop five.
"""

from supervisor import poller, supervisord


class BriskPoller(poller.Poller):
    def poll(self, timeout: float) -> tuple[list[int], list[int]]:
        return super().poll(min(timeout, 0.2))


if __name__ == "__main__":
    poller.Poller = BriskPoller
    supervisord.main()
