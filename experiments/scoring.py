"""Scores of answers: how high a ranking of suspected services and operations has the cause of a fault."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from experiments.indicators import CHANGED
from local import CommandError

TRUTH_FILE, BASELINES_FOLDER = "truth.json", "baselines"
TOP = (1, 3, 5)

Ranking = list[str]  # of services, and of operations as service/operation: the most suspicious first


class ScoringError(CommandError):
    """Files that cannot be scored. The message names the cause in one line."""


class Truth(NamedTuple):
    """The answer of an experiment. Causes are those of the faults that had an effect; without any, it is not scored."""

    experiment: str
    services: frozenset[str]
    operations: frozenset[str]
    causing_services: frozenset[str]
    causing_operations: frozenset[str]

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Truth":
        """The content of truth.json. Raises KeyError, TypeError."""
        faults = [fault for fault in content["faults"] if fault["verdict"] == CHANGED]
        causing_operations = frozenset(operation for fault in faults for operation in fault["operations"])
        return cls(
            experiment=content["experiment"],
            services=frozenset(content["services"]),
            operations=causing_operations.union(content["operations"]),
            causing_services=frozenset(fault["service"] for fault in faults),
            causing_operations=causing_operations,
        )


class Score(NamedTuple):
    """Shares of the experiments whose cause is among the first 1, 3 and 5, and the mean of its rank, from 1."""

    level: str  # service or operation
    top: tuple[float, ...]
    mean_rank: float


def score(answers: Mapping[str, Ranking], truths: Sequence[Truth]) -> list[Score]:
    """The scores per service and per operation. An experiment without an answer counts like one with an empty ranking.

    Of several causes, the one that is ranked highest counts.
    """
    pairs = [(answers.get(truth.experiment, []), truth) for truth in truths if truth.causing_services]
    services = [Rank.of(services_of(ranking), truth.causing_services, len(truth.services)) for ranking, truth in pairs]
    operations = [
        Rank.of(operations_of(ranking), truth.causing_operations, len(truth.operations)) for ranking, truth in pairs
    ]
    return [_score("service", services), _score("operation", operations)]


def _score(level: str, ranks: Sequence["Rank"]) -> Score:
    shares = tuple(fmean(rank.is_ranked and rank.rank <= top for rank in ranks) for top in TOP)
    return Score(level, shares, fmean(rank.rank for rank in ranks))


def report(answers: Mapping[str, Ranking], truths: Sequence[Truth]) -> list[str]:
    """The scores as lines of a table."""
    scored = [truth.experiment for truth in truths if truth.causing_services]
    answered = sum(experiment in answers for experiment in scored)
    without = len(truths) - len(scored)
    titles = "".join(f"{f'top-{top}':>8}" for top in TOP)
    return [
        f"experiments: {len(scored)}; with an answer: {answered}"
        + (f"; not scored, because no fault had an effect: {without}" if without else ""),
        f"{'':10}{titles}{'mean rank':>12}",
        *(
            f"{level:10}" + "".join(f"{share:>8.0%}" for share in top) + f"{mean_rank:>12.1f}"
            for level, top, mean_rank in score(answers, truths)
        ),
    ]


class Rank(NamedTuple):
    """The rank of the first cause in a ranking, from 1.

    A cause that is not ranked has the mean of the ranks that are left for the other candidates, which is what guessing
    would achieve. So a short ranking is no advantage.
    """

    rank: float
    is_ranked: bool

    @classmethod
    def of(cls, ranking: Sequence[str], causes: frozenset[str], candidates: int) -> "Rank":
        if ranks := [number for number, place in enumerate(ranking, start=1) if place in causes]:
            return cls(ranks[0], True)
        first_left = len(ranking) + 1
        return cls((first_left + max(candidates, first_left)) / 2, False)


def services_of(ranking: Ranking) -> Ranking:
    """The services in the order in which the ranking first names them or one of their operations."""
    return list(dict.fromkeys(place.partition("/")[0] for place in ranking))


def operations_of(ranking: Ranking) -> Ranking:
    return [place for place in ranking if "/" in place]


def read_truths(path: Path) -> list[Truth]:
    """The truths of the experiments in a folder, or of one file. Raises ScoringError, OSError."""
    truths = [_read_truth(file) for file in ([path] if path.is_file() else sorted(path.rglob(TRUTH_FILE)))]
    if not truths:
        raise ScoringError(f"{path}: there is no {TRUTH_FILE} here; name the folder of an experiment, or of several")
    if not any(truth.causing_services for truth in truths):
        raise ScoringError(f"{path}: no fault had an effect, so that there is nothing to find")
    return truths


def _read_truth(file: Path) -> Truth:
    try:
        return Truth.of(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ScoringError(f"{file}: not the {TRUTH_FILE} of an experiment: {error!r}") from None


def read_answers(files: Iterable[Path], truths: Sequence[Truth]) -> dict[str, Ranking]:
    """The rankings by experiment, from JSON or CSV by a file's name. Raises ScoringError, OSError.

    JSON: an object of lists. CSV: the columns experiment, rank, service and optionally operation.
    """
    answers: dict[str, Ranking] = {}
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
            found = _of_csv(text) if file.suffix == ".csv" else _of_json(text)
            _check(found, {truth.experiment: truth for truth in truths})
        except (ScoringError, UnicodeDecodeError) as error:
            raise ScoringError(f"{file}: {error}") from None
        answers |= found
    return answers


def baseline_files(name: str, path: Path) -> list[Path]:
    """The answers of a baseline in the folder of an experiment or of several. Raises ScoringError."""
    files = sorted(path.rglob(f"{BASELINES_FOLDER}/*.json"))
    if found := [file for file in files if file.stem == name]:
        return found
    names = ", ".join(sorted({file.stem for file in files})) or "no folder of an experiment"
    raise ScoringError(f"{path}: there is no baseline {name!r} here, but {names}")


def _of_json(text: str) -> dict[str, Ranking]:
    try:
        answers = json.loads(text)
    except ValueError as error:
        raise ScoringError(f"no JSON: {error}") from None
    if not isinstance(answers, dict):
        raise ScoringError('not an object that has a list for each experiment: {"EXPERIMENT": ["SERVICE/OPERATION"]}')
    for experiment, ranking in answers.items():
        if not isinstance(ranking, list) or not all(isinstance(place, str) for place in ranking):
            raise ScoringError(f"{experiment}: not a list of texts SERVICE or SERVICE/OPERATION")
    return answers


def _of_csv(text: str) -> dict[str, Ranking]:
    rows = csv.DictReader(io.StringIO(text))
    required, optional = {"experiment", "rank", "service"}, {"operation"}
    columns = set(rows.fieldnames or ())
    if not required <= columns <= required | optional:
        raise ScoringError("the columns are not experiment, rank, service and optionally operation")
    ranked: dict[str, list[tuple[int, str]]] = {}
    for row in rows:
        number = row["rank"] or ""
        if not (number.isascii() and number.isdecimal()):
            raise ScoringError(f"line {rows.line_num}: rank {number!r} is not a whole number")
        place = "/".join(filter(None, (row["service"], row.get("operation"))))
        ranked.setdefault(row["experiment"] or "", []).append((int(number), place))
    for experiment, places in ranked.items():
        numbers = sorted(number for number, _ in places)
        if numbers != list(range(1, len(places) + 1)):
            raise ScoringError(f"{experiment}: the ranks are not 1 to {len(places)}, each once")
    return {experiment: [place for _, place in sorted(places)] for experiment, places in ranked.items()}


def _check(answers: Mapping[str, Ranking], truths: Mapping[str, Truth]) -> None:
    for experiment, ranking in answers.items():
        if experiment not in truths:
            raise ScoringError(f"there is no experiment {experiment!r}; there are {', '.join(sorted(truths))}")
        if repeated := [place for place in ranking if ranking.count(place) > 1]:
            raise ScoringError(f"{experiment}: {repeated[0]!r} is ranked more than once")
        services = truths[experiment].services
        if unknown := [service for service in services_of(ranking) if service not in services]:
            raise ScoringError(f"{experiment}: no service {unknown[0]!r}; there are {', '.join(sorted(services))}")
