"""Location of PE on the synthetic test exams of a finished run, for any of its candidates.

    ./run.sh bench localisation                          the promoted candidate of the run under $PE_ROOT
    ./run.sh bench localisation --candidate gru          another one

Prints what `./run.sh inference report` measures: AUCs of the location labels among exams with PE beside those of the
candidate that knows only z, hits and distances of the first finding, false findings per exam at stated lesion
sensitivities (free-response ROC), and the clot volume and the occluded share of each lung's arteries against the truth.
Synthetic data.
"""

import argparse

from inference.location_report import describe_location, measure_location
from pipeline import paths
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import say
from submissions.finished_run import read_candidates, require_finished


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench localisation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_settings_arguments(parser)
    parser.add_argument("--candidate", help="the candidate whose predictions are used (the promoted one)")
    arguments = parser.parse_args()
    settings = settings_from(arguments)
    require_finished(settings)
    candidates = read_candidates(paths.ensemble_run())
    say(describe_location(measure_location(settings, candidates, arguments.candidate or candidates.promoted)))


if __name__ == "__main__":
    run(main)
