"""Commands of the ensemble: fit."""

import argparse

from pipeline.cli import add_settings_arguments, run, settings_from


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m ensemble`."""
    top = argparse.ArgumentParser(
        prog="python -m ensemble",
        description="Make one opinion of many: LightGBM stack, logit mean, baselines; promote one of them.",
        epilog="example: python -m ensemble fit --settings settings/phantom.toml",
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    fit = verbs.add_parser(
        "fit",
        help="fit every candidate on the networks' out-of-fold predictions and predict the test exams",
        description="Reads models/runs, features/store and input/prepared; writes ensemble/runs: predictions of every "
        "candidate (out-of-fold and test), the second level's models, and who was promoted and why.",
        epilog="examples: python -m ensemble fit --set ensemble.exam_rounds=400; one more candidate, per-label weights "
        "and calibration: python -m ensemble fit --set ensemble.weighted_blend=true",
    )
    add_settings_arguments(fit)
    return top


def main() -> int:
    """Parse, then call the verb's function."""
    arguments = parser().parse_args()
    from ensemble.fit_ensemble import fit
    from models.apply_networks import require_networks

    settings = settings_from(arguments)
    require_networks(settings)  # what lies there may have been trained with others
    fit(settings, force=arguments.force)
    return 0


if __name__ == "__main__":
    run(main)
