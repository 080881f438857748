"""load: simulated users who keep asking the generator for passwords."""

import itertools
import logging
import signal
import sys
import threading

from load.traffic import current_traffic, default_traffic
from load.users import Crowd, Statistics
from load.waiting import wait_for_generator
from telemetry import flags, instrumentation, services, tracing

CHECK_SECONDS = 0.25
CHECKS_PER_REPORT = 40


def main() -> None:
    instrumentation.prepare("load")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    default = default_traffic()
    url = services.url("generator")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    wait_for_generator(url, stopping)
    flags.start()
    tracing.trace_calls()
    tracing.start("load")
    statistics = Statistics()
    crowd = Crowd(url, current_traffic(default), statistics)
    for check in itertools.count(1):
        if stopping.wait(CHECK_SECONDS):
            break
        if (traffic := current_traffic(default)) != crowd.traffic:
            crowd.stop()
            crowd = Crowd(url, traffic, statistics)
        if check % CHECKS_PER_REPORT == 0:
            logging.getLogger("load").info("%s", statistics.report(CHECK_SECONDS * CHECKS_PER_REPORT))
    crowd.stop()
    tracing.stop()


if __name__ == "__main__":
    main()
