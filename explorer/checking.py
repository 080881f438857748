"""Compares the result of a reader's statement with that of an exercise's reference, and says what differs. No I/O.

Columns are found by their names, or by their positions if there are as many as expected; further columns are ignored.
Numbers may be rounded to one decimal or more. Trace ids may be written with or without the hyphens of a UUID.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from explorer.results import TextResult
from explorer.web import count

# Sums of floating-point numbers depend on the order of their rows.
_TOLERANCE = Decimal("1e-6")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NOTHING = "null"


class _Row(NamedTuple):
    key: tuple[str | None, ...]  # the values of the columns that have no numbers
    numbers: tuple[Decimal | None, ...]


_ByKey = Mapping[tuple[str | None, ...], list[_Row]]


def differences(given: TextResult, expected: TextResult, is_ordered: bool) -> list[str]:
    """What is wrong with a result, in sentences; none if it is right.

    `is_ordered` is whether the order of the rows matters.
    """
    indexes = _indexes(given.columns, expected.columns)
    if indexes is None:
        return [_columns_differ(given.columns, expected.columns)]
    are_numbers = expected.numbers
    for index, name, is_number in zip(indexes, expected.columns, are_numbers, strict=True):
        if is_number and not given.numbers[index]:
            return [f"The column {name} has texts (of type {given.types[index]}), where numbers are expected."]
    yours = [_row([row[index] for index in indexes], are_numbers) for row in given.rows]
    answer = [_row(row, are_numbers) for row in expected.rows]
    own_rows, right_rows = _by_key(yours), _by_key(answer)
    numbers = [name for name, is_number in zip(expected.columns, are_numbers, strict=True) if is_number]
    found = [*_keys_differ(own_rows, right_rows), *_numbers_differ(own_rows, right_rows, numbers)]
    if len(yours) != len(answer):
        found.insert(0, f"Your result has {count(len(yours), 'row')}, the answer {len(answer):,}.")
    if not found and is_ordered:
        found = [*_order_differs(yours, answer)]
    return found


def _indexes(given: Sequence[str], expected: Sequence[str]) -> list[int] | None:
    """Where the expected columns are among the given ones; None if that is not clear."""
    if set(expected) <= set(given):
        return [given.index(name) for name in expected]
    return list(range(len(expected))) if len(given) == len(expected) else None


def _columns_differ(given: Sequence[str], expected: Sequence[str]) -> str:
    lacking = [name for name in expected if name not in given]
    return (
        f"Your result has the columns {', '.join(given)}. The answer has {', '.join(expected)}: yours lacks"
        f" {', '.join(lacking)}."
    )


def _row(values: Sequence[str | None], are_numbers: Sequence[bool]) -> _Row:
    pairs = list(zip(values, are_numbers, strict=True))
    return _Row(
        tuple(_text(value) for value, is_number in pairs if not is_number),
        tuple(None if value is None else Decimal(value) for value, is_number in pairs if is_number),
    )


def _text(value: str | None) -> str | None:
    return value.replace("-", "") if value and _UUID.fullmatch(value) else value


def _keys_differ(given: _ByKey, expected: _ByKey) -> Iterator[str]:
    for one, other, words in ((expected, given, "is missing from your result"), (given, expected, "is not expected")):
        keys = [key for key, rows in one.items() if key and len(rows) > len(other.get(key, ()))]
        if keys:
            more = f" It is one of {len(keys):,} such rows." if len(keys) > 1 else ""
            yield f"The row of {_words(keys[0])} {words}.{more}"


def _numbers_differ(given: _ByKey, expected: _ByKey, columns: Sequence[str]) -> Iterator[str]:
    """Of the rows that are in both; `columns` are those with numbers."""
    pairs = [
        pair
        for key, rows in expected.items()
        if len(rows) == len(given.get(key, ()))
        for pair in zip(sorted(given[key], key=_sortable), sorted(rows, key=_sortable), strict=True)
    ]
    for index, name in enumerate(columns):
        wrong = [
            (own.key, own.numbers[index], right.numbers[index])
            for own, right in pairs
            if not _equal(own.numbers[index], right.numbers[index])
        ]
        if wrong:
            key, own, right = wrong[0]
            place = f" for {_words(key)}" if key else ""
            yield (
                f"The column {name} differs in {count(len(wrong), 'row')} of {len(pairs):,}:{place} it is"
                f" {_shown(own)} and not {_shown(right)}.{_pattern([pair[1:] for pair in wrong])}"
            )


def _pattern(wrong: Sequence[tuple[Decimal | None, Decimal | None]]) -> str:
    """What all wrong numbers have in common."""
    known = [(own, right) for own, right in wrong if own is not None and right is not None]
    if len(known) < len(wrong) or not all(own.is_finite() and right.is_finite() for own, right in known):
        return ""
    if all(own == round(right) for own, right in known):
        return " Your numbers are rounded to whole ones: keep a decimal."
    ratios = {round(own / right, 6) if right else None for own, right in known}
    if len(ratios) == 1 and len(known) > 1 and (ratio := ratios.pop()):
        return f" All of them are {_shown(ratio)} times those of the answer: compare the units."
    return ""


def _order_differs(yours: Sequence[_Row], answer: Sequence[_Row]) -> Iterator[str]:
    for number, (own, right) in enumerate(zip(yours, answer, strict=True), start=1):
        if own.key != right.key or not all(map(_equal, own.numbers, right.numbers)):
            yield (
                f"The rows are right, and their order is not: row {number} is {_words(_values(own))}, where"
                f" {_words(_values(right))} is expected."
            )
            return


def _by_key(rows: Sequence[_Row]) -> _ByKey:
    found: defaultdict[tuple[str | None, ...], list[_Row]] = defaultdict(list)
    for row in rows:
        found[row.key].append(row)
    return found


def _sortable(row: _Row) -> list[tuple[bool, Decimal]]:
    return [(value is None or value.is_nan(), Decimal(0) if value is None else value) for value in row.numbers]


def _equal(own: Decimal | None, right: Decimal | None) -> bool:
    """Whether a number is right, or is right when rounded to the decimals that it has."""
    if own is None or right is None or not (own.is_finite() and right.is_finite()):
        return str(own) == str(right)
    exponent = own.as_tuple().exponent
    rounding = Decimal(5).scaleb(exponent - 1) if isinstance(exponent, int) and exponent < 0 else Decimal(0)
    return abs(own - right) <= max(rounding, _TOLERANCE * max(abs(right), Decimal(1)))


def _values(row: _Row) -> tuple[str | None, ...]:
    return row.key or tuple(map(_shown, row.numbers))


def _words(values: Sequence[str | None]) -> str:
    return ", ".join(_NOTHING if value is None else value for value in values)


def _shown(number: Decimal | None) -> str:
    if number is None:
        return _NOTHING
    if not number.is_finite():
        return str(number)
    return f"{number:,.0f}" if abs(number) >= 1000 or number == number.to_integral_value() else f"{number:.4g}"
