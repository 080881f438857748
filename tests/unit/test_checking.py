"""How the result of a reader's statement is compared with an exercise's reference."""

import pytest

from explorer.checking import differences
from explorer.results import TextResult


def result(columns: str, *rows: str) -> TextResult:
    """Columns that end in "_n" have numbers; "null" is None."""
    names = columns.split()
    types = ["float8" if name.endswith("_n") else "text" for name in names]
    return TextResult(names, types, [[None if value == "null" else value for value in row.split()] for row in rows])


REFERENCE = result("service calls_n mean_n", "digit 20 1.25", "lower 10 3.14159", "upper 10 0.5")


@pytest.mark.parametrize(
    "given",
    [
        REFERENCE,
        result("service calls_n mean_n", "upper 10 0.5", "digit 20 1.25", "lower 10 3.14159"),
        result("a b_n c_n", "digit 20 1.25", "lower 10 3.14159", "upper 10 0.5"),
        result("mean_n service more calls_n", "1.25 digit x 20", "3.14159 lower x 10", "0.5 upper x 10"),
        result("service calls_n mean_n", "digit 20.0 1.3", "lower 10 3.1", "upper 10 0.50"),
        result("service calls_n mean_n", "digit 20 1.2500000001", "lower 10 3.14159", "upper 10 0.5"),
    ],
    ids=["the same", "another order", "other names", "other positions", "rounded", "another order of summation"],
)
def test_right_results(given):
    assert differences(given, REFERENCE, is_ordered=False) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            result("service calls_n", "digit 20"),
            [
                (
                    "Your result has the columns service, calls_n. The answer has service, calls_n, mean_n: yours lacks"
                    " mean_n."
                )
            ],
        ),
        (
            result("service calls mean_n", "digit 20 1.25", "lower 10 3.14159", "upper 10 0.5"),
            ["The column calls_n has texts (of type text), where numbers are expected."],
        ),
        (
            result("service calls_n mean_n", "digit 20 1.25"),
            [
                "Your result has 1 row, the answer 3.",
                "The row of lower is missing from your result. It is one of 2 such rows.",
            ],
        ),
        (
            result("service calls_n mean_n", *("digit 20 1.25", "lower 10 3.14159", "upper 10 0.5", "null 1 1")),
            ["Your result has 4 rows, the answer 3.", "The row of null is not expected."],
        ),
        (
            result("service calls_n mean_n", "digit 20 1.25", "lower 11 3.14159", "upper null 0.5"),
            ["The column calls_n differs in 2 rows of 3: for lower it is 11 and not 10."],
        ),
        (
            result("service calls_n mean_n", "digit 20 1250", "lower 10 3141.59", "upper 10 500"),
            [
                (
                    "The column mean_n differs in 3 rows of 3: for digit it is 1,250 and not 1.25."
                    " All of them are 1,000 times those of the answer: compare the units."
                )
            ],
        ),
        (
            result("service calls_n mean_n", "digit 20 1", "lower 10 3", "upper 10 0"),
            [
                (
                    "The column mean_n differs in 3 rows of 3: for digit it is 1 and not 1.25."
                    " Your numbers are rounded to whole ones: keep a decimal."
                )
            ],
        ),
        (
            result("service calls_n mean_n", "digit 20 NaN", "lower 10 3.14159", "upper 10 0.5"),
            ["The column mean_n differs in 1 row of 3: for digit it is NaN and not 1.25."],
        ),
    ],
    ids=["a column", "texts", "missing rows", "further rows", "numbers", "a unit", "rounded to integers", "NaN"],
)
def test_what_differs_is_said(given, expected):
    assert differences(given, REFERENCE, is_ordered=False) == expected


def test_the_order_matters_where_the_question_gives_one():
    given = REFERENCE._replace(rows=[*reversed(REFERENCE.rows)])
    assert differences(given, REFERENCE, is_ordered=True) == [
        "The rows are right, and their order is not: row 1 is upper, where digit is expected."
    ]


def test_rows_with_the_same_texts_are_compared_by_their_numbers():
    reference = result("name duration_n", "GET 1", "GET 2", "GET 2")
    assert differences(result("name duration_n", "GET 2", "GET 1", "GET 2"), reference, is_ordered=False) == []
    assert differences(result("name duration_n", "GET 2", "GET 1", "GET 1"), reference, is_ordered=False) == [
        "The column duration_n differs in 1 row of 3: for GET it is 1 and not 2."
    ]
    assert differences(result("name duration_n", "GET 2", "GET 1"), reference, is_ordered=False) == [
        "Your result has 2 rows, the answer 3.",
        "The row of GET is missing from your result.",
    ]


def test_a_result_of_numbers_only():
    reference = result("p50_n p95_n", "1.5 9")
    assert differences(reference, reference, is_ordered=True) == []
    assert differences(result("p50_n p95_n", "1.5 8"), reference, is_ordered=True) == [
        "The column p95_n differs in 1 row of 1: it is 8 and not 9."
    ]


def test_trace_ids_may_have_hyphens():
    with_hyphens = result("trace_id", "4bf92f35-77b3-4da6-a3ce-929d0e0e4736")
    assert differences(result("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736"), with_hyphens, is_ordered=False) == []
