"""What was tried and what came of it, printed when the tests have ended."""

lines: list[str] = []


def note(attack: str, outcome: str) -> None:
    lines.append(f"{attack}: {outcome}")
