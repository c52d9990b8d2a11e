"""Commands of the models stage: ./run.sh models train | fold | jobs."""

import argparse
import os
import sys

from models.estimate import plan_stage
from models.network_names import exam_network_kinds
from pipeline.cli import add_settings_arguments, experiment_options, run, settings_from
from pipeline.experiments import start
from pipeline.settings import Settings
from pipeline.stage_plan import add_dry_run_arguments, print_plan

EPILOG = """examples:
  ./run.sh models train                                  every (backbone, fold) that is not up to date
  ./run.sh models train --set models.epochs=8            another recipe; the networks it affects are trained again
  ./run.sh models train --set models.ema=0.99            predict with averaged weights
  ./run.sh models train --set models.inner_share=0.15 --set models.epochs=20
                                                         early stopping on exams set aside inside the training part
  ./run.sh models train --set models.batch=8 --set models.accumulate=4
                                                         steps of 32 slices with the memory of 8
  ./run.sh models train --set models.frozen_share=1 --set models.unfreeze_epoch=2 --set models.fixed_statistics=false
                                                         train the head first, then all layers
  ./run.sh models fold --backbone mobilenetv2 --fold 0   one network, in this process, on the console
  KERAS_BACKEND=jax ./run.sh models train                the same on another backend

Progress: logs/models-<backbone>-fold<k>.log has loss, speed and the time left; `tensorboard --logdir logs/tensorboard`
shows curves during training (with any TensorBoard, e.g. `uvx tensorboard`). Afterwards every run has history.csv and
learning.png, and learning_curves.png shows all runs. A killed training resumes after its last finished
epoch: rerun the same command.
"""


def parser() -> argparse.ArgumentParser:
    """Build the command line of `./run.sh models`."""
    top = argparse.ArgumentParser(
        prog="./run.sh models",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    train = verbs.add_parser("train", help="train all networks and write their out-of-fold and test predictions")
    add_settings_arguments(train)
    add_dry_run_arguments(train)
    fold = verbs.add_parser("fold", help="run one (backbone, fold) job")
    add_settings_arguments(fold)
    fold.add_argument("--backbone", required=True, help="a key of models.backbones.BACKBONES")
    fold.add_argument("--fold", type=int, required=True, help="the held-out fold")
    jobs = verbs.add_parser("jobs", help="run the jobs named on standard input, one per line; `train` starts this")
    add_settings_arguments(jobs)
    for parser in (fold, jobs):
        _add_process_arguments(parser)
    return top


def _add_process_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads (default %(default)s); results depend on it"
    )
    parser.add_argument("--end-with-parent", action="store_true", help="exit when the parent process is killed")
    parser.add_argument(
        "--progress", choices=("text", "json"), default="text", help="format of progress messages (default %(default)s)"
    )


def main() -> None:
    """Parse the arguments and run the verb."""
    arguments = parser().parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if arguments.verb == "train" and arguments.dry_run:
        print_plan(plan_stage(settings_from(arguments)), as_json=arguments.json)
    elif arguments.verb == "train":
        _train(arguments)
    else:
        _jobs(arguments)


def _train(arguments: argparse.Namespace) -> None:
    from features.connect_features import connect_features
    from models.training_jobs import train_all

    settings = settings_from(arguments)
    start(settings)
    connect_features(settings)
    train_all(settings, experiment_options(arguments), force=arguments.force)


def _jobs(arguments: argparse.Namespace) -> None:
    """Run one job, or those that standard input names as they come."""
    from features.connect_features import connect_features
    from pipeline.jobs import end_with_parent

    settings = settings_from(arguments)
    if arguments.end_with_parent:
        end_with_parent()
    start(settings)
    connect_features(settings)
    if arguments.verb == "fold":
        _run_job(settings, arguments.backbone, arguments.fold, arguments)
        return
    for line in sys.stdin:
        backbone, fold = line.split()
        _run_job(settings, backbone, int(fold), arguments)


def _run_job(settings: Settings, backbone: str, fold: int, arguments: argparse.Namespace) -> None:
    from models.device import is_out_of_memory
    from models.progress_messages import DoneMessage, print_json, print_text
    from models.slice_runs import train_fold
    from pipeline.errors import UserError

    report = print_json if arguments.progress == "json" else print_text
    job = settings, backbone, fold, arguments.threads
    try:
        summary = train_fold(*job, force=arguments.force, report=report)
        if exam_network_kinds(settings.models, backbone):
            from models.exam_runs import train_exam_networks

            summary += train_exam_networks(*job, force=arguments.force, report=report)
    except Exception as fault:
        if not is_out_of_memory(fault):
            raise
        recipe = settings.models.of(backbone)
        raise UserError(
            f"Memory of the device exhausted: {backbone} fold {fold}, models.batch is "
            f"{recipe.batch}. Train smaller batches to the same effect: --set models.batch={(recipe.batch + 1) // 2} "
            f"--set models.accumulate={2 * recipe.accumulate}"
        ) from fault
    report(DoneMessage("; ".join(summary)))


if __name__ == "__main__":
    run(main)
