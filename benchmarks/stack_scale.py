"""Time and memory of the second level at the contest's size, on drawn predictions (no images, no networks).

    python -m benchmarks.stack_scale --shares 0.02 0.04 0.08     # is the cost linear in slices?
    python -m benchmarks.stack_scale --shares 1                  # 7,279 + 2,167 exams, 2.3 million slices

Every line is one size: seconds of each step, slices, peak memory of the process so far.
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

from ensemble.baselines import Prior
from ensemble.blend import Blend
from ensemble.decode import decode
from ensemble.exam_table import exam_table
from ensemble.fit import predict_test
from ensemble.predictions import oof_view, test_view
from ensemble.slice_table import slice_table
from ensemble.stack import Stack
from input.contest import STUDY
from input.metric import contest_score
from pipeline.console import say
from pipeline.settings import EnsembleSettings
from tests.simulated_predictions import simulate

TRAIN_EXAMS, TEST_EXAMS, FOLDS, MEAN_SLICES = 7_279, 2_167, 5, 246
BACKBONES = ("a", "b", "c", "d", "e", "f")


class Clock:
    """Seconds of named steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str, step: Callable[[], Any]) -> Any:
        """Run a step, add its seconds under its name, return what it returns."""
        start = time.perf_counter()
        value = step()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return value


def measure(share: float, settings: EnsembleSettings) -> None:
    """Draw a contest of `share` times the real size, fit one fold and the final models, decode and score."""
    clock = Clock()
    train, test = int(TRAIN_EXAMS * share), int(TEST_EXAMS * share)
    contest = clock.time(
        "draw",
        lambda: simulate(
            train=train, test=test, folds=FOLDS, backbones=BACKBONES, slices=MEAN_SLICES, positive_share=0.304
        ),
    )
    view = clock.time("join", lambda: oof_view(contest.networks, contest.exams, contest.slices, contest.measured))
    clock.time("exam table", lambda: exam_table(view))
    clock.time("slice table", lambda: slice_table(view, view.mean_logit()))
    clock.time("mean", lambda: Blend.fit(view, settings))
    stack = clock.time("stack", lambda: Stack.fit(view, settings))
    clock.time("predict train", lambda: stack.predict(view))
    fitted = {"prior": Prior.fit(view, settings), "stack": stack}
    tests = (
        clock.time("join test", lambda k=k: test_view(contest.networks, k, contest.slices, contest.measured))
        for k in range(FOLDS)
    )
    exams = contest.test_exams[[STUDY]]
    found = clock.time("join and predict test", lambda: predict_test(fitted, tests, exams, contest.test_slices))
    exams, slices = found["stack"]
    decoded = clock.time("decode", lambda: decode(exams, slices))
    score = clock.time("score", lambda: contest_score(contest.test_exams, contest.test_slices, *decoded))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    steps = "  ".join(f"{name} {seconds:.1f}" for name, seconds in clock.seconds.items())
    say(f"share {share:g}: {train} + {test} exams, {len(contest.slices):,} slices | {steps}")
    say(f"  {sum(clock.seconds.values()):.0f} s in all, {memory:.2f} GB; drawn test {score.total:.4f}")


def main() -> None:
    """Parse the sizes and measure each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.02, 0.04, 0.08], help="sizes, 1 = the contest")
    arguments = parser.parse_args()
    for share in arguments.shares:
        measure(share, EnsembleSettings())


if __name__ == "__main__":
    main()
