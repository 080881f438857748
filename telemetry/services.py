"""The table of the demo's services and of the ports that a stack publishes.

Everything written in Python takes names and ports from here. docker-compose.yaml, the configuration files and the
documents have to repeat them; tests/unit/test_service_table.py compares each of these with this table.
The standard library only, so that any part can import it.
"""

import os

# In the order in which pages and tables list them.
SERVICES = {"generator": 5050, "upper": 5054, "lower": 5053, "digit": 5051, "special": 5052}
# Those that the generator calls, each for one kind of character.
CHARACTER_SERVICES = tuple(name for name in SERVICES if name != "generator")

# The page on which faults are switched, and its API.
FAULTS_PORT = 5055
POSTGRES_PORT = 5999
OTLP_GRPC_PORT, OTLP_HTTP_PORT = 4317, 4318
PROMSCALE_HTTP_PORT, PROMSCALE_GRPC_PORT = 9201, 9202
# Grafana and Jaeger in the full stack, the explorer's two apps of these names in the local one.
PAGES = {"dashboards": 3000, "traces": 16686}
# The ports of the explorer's apps where Grafana and Jaeger have those above.
BESIDE = {"dashboards": 3001, "traces": 16687}
# The ports of the explorer's apps to which the pages of this process link.
EXPLORER = {name: int(os.environ.get(f"EXPLORER_{name.upper()}_PORT") or port) for name, port in PAGES.items()}
# Published on loopback only, for the health checks of ./run.sh.
COLLECTOR_HEALTH_PORT = 13133


def url(service: str) -> str:
    """Where a service is called: the value of, for instance, `DIGIT_URL`, or else its port on this machine."""
    return os.environ.get(f"{service.upper()}_URL") or f"http://localhost:{SERVICES[service]}"
