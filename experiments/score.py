"""The command behind ./run.sh score."""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import scoring
from local import exit_code
from local.arguments import Parser


def main(arguments: Sequence[str]) -> int:
    parser = Parser("score")
    parser.add_argument("answers", metavar="ANSWERS", type=Path, nargs="?", help="a file of rankings, JSON or CSV")
    parser.add_argument("truth", metavar="TRUTH", type=Path, help="truth.json, or a folder of experiments")
    parser.add_argument("--baseline", metavar="NAME", help="score a baseline in place of ANSWERS")
    options = parser.parse_args(arguments)
    if bool(options.answers) == bool(options.baseline):
        parser.error("either ANSWERS or --baseline is required")
    truths = scoring.read_truths(options.truth)
    files = [options.answers] if options.answers else scoring.baseline_files(options.baseline, options.truth)
    for line in scoring.report(scoring.read_answers(files, truths), truths):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
