"""The Compose files, as the tests read them."""

import re
from typing import Any

import yaml

from local import CHECKOUT

_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 2**10, "m": 2**20, "g": 2**30}


def services(file: str = "docker-compose.yaml") -> dict[str, dict[str, Any]]:
    """The definition of each part."""
    defined: dict[str, dict[str, Any]] = yaml.safe_load((CHECKOUT / file).read_text())["services"]
    return defined


def size(text: str) -> int:
    """Bytes, of Kubernetes' and of Compose's notation."""
    [(number, unit)] = re.findall(r"^(\d+)(\w+)$", text)
    return int(number) * _UNITS[unit]
