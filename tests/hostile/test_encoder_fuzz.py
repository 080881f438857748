"""libFuzzer on the Rust encoder. CONTRIBUTING.md says how to run it for longer."""

import random
import subprocess

import pytest

from tests import built
from tests.hostile.messages import BOMBS
from tests.hostile.mutations import mutate_tree, originals

RUNS = 300_000
MAX_BYTES = 4096


@pytest.mark.slow
def test_no_request_makes_the_encoder_panic(tmp_path):
    dice = random.Random(3)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    small, large = originals()
    seeds = [
        small,
        large,
        *(mutate_tree(small, dice) for _ in range(100)),
        *(bomb()[:MAX_BYTES] for bomb in BOMBS.values()),
    ]
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    command = [built.encoder_fuzz_target(), f"-runs={RUNS}", f"-max_len={MAX_BYTES}", "-seed=1", "-timeout=120", corpus]
    fuzzing = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert fuzzing.returncode == 0, fuzzing.stderr[-3000:]
    assert f"Done {RUNS} runs" in fuzzing.stderr
