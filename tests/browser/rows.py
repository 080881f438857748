"""Reads the rows of a waterfall."""

import re


def names(page) -> list[str]:
    """The rows of the waterfall from top to bottom."""
    rows = page.get_by_role("treeitem").evaluate_all(
        "rows => rows.map(row => [parseFloat(row.style.top), row.getAttribute('aria-label')])"
    )
    # The form of a label is "service: name, duration", followed by ", error", or by ", 2 errors" if it is closed.
    return [re.sub(r", [^,]+(, error|, [\d,]+ errors?)?$", "", label) for _, label in sorted(rows)]
