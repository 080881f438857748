"""Options and arguments of a command, whose mistakes are one line."""

import argparse
from typing import NoReturn

from local import CommandError


class Parser(argparse.ArgumentParser):
    """Parses what follows ./run.sh COMMAND. Raises CommandError."""

    def __init__(self, command: str) -> None:
        super().__init__(prog=f"./run.sh {command}", allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message}; {' '.join(self.format_usage().split())}")
