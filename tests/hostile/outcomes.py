"""The attacks and their outcomes, printed at the end of the test run."""

lines: list[str] = []


def note(attack: str, outcome: str) -> None:
    lines.append(f"{attack}: {outcome}")
