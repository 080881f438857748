"""Fuzzing: exports with random mutations. promscale must neither stop nor lose the valid spans in between."""

import random
import re
import urllib.request
from collections import Counter

import grpc
import pytest

from promscale.otlp_http import JSON
from tests.hostile import outcomes
from tests.hostile.mutations import mutate, mutate_part, originals
from transfer.otlp_files import to_json

SEED = 11
EXPORTS = 3_000
CONTROL_EVERY = 25
# The permitted responses: success, a permanent error, and errors after which the sender retries.
ALLOWED = {"OK", "partly", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}


def stored_spans(target) -> int:
    with urllib.request.urlopen(f"http://{target.web}/metrics") as response:
        [value] = re.findall(r"^promscale_stored_spans_total (\S+)$", response.read().decode(), re.MULTILINE)
        return int(float(value))


@pytest.mark.slow
def test_mutated_json(target):
    dice = random.Random(SEED)
    samples = list(map(to_json, originals()))
    responses = Counter()
    for _ in range(EXPORTS):
        responses[target.post(mutate(dice.choice(samples), dice), JSON)] += 1
    target.export_control()
    counts = ", ".join(f"{count} {status}" for status, count in responses.most_common())
    outcomes.note(f"{EXPORTS:,} exports in JSON with random mutations (seed {SEED})", counts)
    assert responses.keys() <= {200, 400}
    assert min(responses.values()) > EXPORTS / 100
    target.check()


@pytest.mark.slow
def test_mutated_exports(target):
    dice = random.Random(SEED)
    samples = originals()
    responses = Counter()
    target.export_control()
    for number in range(EXPORTS):
        mutation = mutate if dice.random() < 0.3 else mutate_part
        response = target.export(mutation(dice.choice(samples), dice))
        if isinstance(response, grpc.StatusCode):
            responses[response.name] += 1
        else:
            responses["partly" if response.partial_success.rejected_spans else "OK"] += 1
        if number % CONTROL_EVERY == 0:
            target.export_control()
    counts = ", ".join(f"{count} {name}" for name, count in responses.most_common())
    outcomes.note(f"{EXPORTS:,} exports with random mutations (seed {SEED})", counts)
    assert responses.keys() <= ALLOWED
    assert min(responses[name] for name in ("OK", "partly", "INVALID_ARGUMENT")) > EXPORTS / 100
    assert target.span_count() == stored_spans(target)
    target.check()
