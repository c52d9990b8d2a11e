"""Commands of the models stage: python -m models train | fold."""

import argparse
import os

from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import say
from pipeline.jobs import end_with_parent

EPILOG = """examples:
  python -m models train                                  every (backbone, fold) that is not up to date
  python -m models train --set models.epochs=8            another recipe: what it affects is trained again
  python -m models train --set models.ema=0.99            averaged weights predict
  python -m models train --set models.inner_share=0.15 --set models.epochs=20
                                                          stop early, on exams set aside inside the training part
  python -m models train --set models.batch=8 --set models.accumulate=4
                                                          steps of 32 slices with the memory of 8
  python -m models train --set models.frozen_share=1 --set models.unfreeze_epoch=2
                                                          the head first, then all layers
  python -m models fold --backbone mobilenetv2 --fold 0   one network, in this process, on the console
  KERAS_BACKEND=jax python -m models train                the same code on another backend

Watch it: logs/models-<backbone>-fold<k>.log tells loss, speed and the time left; `tensorboard --logdir
logs/tensorboard` draws curves while it runs (any TensorBoard, e.g. `uvx tensorboard`). Afterwards every run holds
history.csv and learning.png, and models/runs/learning_curves.png shows all runs. A killed training goes on at its
last finished epoch.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    train = verbs.add_parser("train", help="train all networks and write their out-of-fold and test predictions")
    add_settings_arguments(train)
    fold = verbs.add_parser("fold", help="one (backbone, fold) job; `train` starts these")
    add_settings_arguments(fold)
    fold.add_argument("--backbone", required=True, help="a name of models.backbones.BACKBONES")
    fold.add_argument("--fold", type=int, required=True, help="the held-out fold")
    fold.add_argument("--threads", type=int, default=1, help="CPU threads (%(default)s); results depend on it")
    fold.add_argument("--end-with-parent", action="store_true", help="die when `train` is killed")
    return parser


def main() -> None:
    """Parse, then call the one function behind the verb."""
    arguments = _parser().parse_args()
    settings = settings_from(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if arguments.verb == "train":
        from models.training_jobs import train_all

        experiment = ["--settings", arguments.settings]
        experiment += [part for override in arguments.overrides for part in ("--set", override)]
        experiment += ["--data", arguments.data] if arguments.data else []
        train_all(settings, experiment, force=arguments.force)
    else:
        from models.slice_runs import train_fold

        if arguments.end_with_parent:
            end_with_parent()
        job = settings, arguments.backbone, arguments.fold, arguments.threads
        told = train_fold(*job, force=arguments.force)
        if settings.models.exam_kinds(arguments.backbone):
            from models.exam_runs import train_exam_networks

            told += train_exam_networks(*job, force=arguments.force)
        say(f"done: {'; '.join(told)}")


if __name__ == "__main__":
    run(main)
