"""Plots of learning curves: of one run, and of all runs side by side."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.files import atomic_path

COLUMNS = 4  # panels per row of the overview


def draw_curves(path: Path, history: pd.DataFrame, title: str) -> None:
    """Plot one training run: losses above, the learning rate below.

    Args:
        path: PNG file to write.
        history: One row per epoch: epoch, loss, learning_rate and, if inner exams were set aside, inner_loss.
        title: Name of the network and fold.
    """
    figure = Figure(figsize=(6, 5), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    _plot_losses(above, history)
    above.set(title=title, ylabel="loss")
    above.legend()
    below.plot(history["epoch"], history["learning_rate"], "o-", color="tab:gray", markersize=3)
    below.set(xlabel="epoch", ylabel="learning rate")
    _save(figure, path)


def draw_overview(path: Path, histories: dict[str, pd.DataFrame]) -> None:
    """Plot the losses of all runs, one panel per network with all its folds.

    Args:
        path: PNG file to write.
        histories: "<network>/fold<k>" -> table as in `draw_curves`.
    """
    networks: dict[str, dict[str, pd.DataFrame]] = {}
    for name, history in histories.items():
        network, _, fold = name.rpartition("/")
        networks.setdefault(network, {})[fold] = history
    columns = min(COLUMNS, len(networks))
    rows = -(-len(networks) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (network, folds) in zip(panels, networks.items(), strict=False):
        for number, (fold, history) in enumerate(folds.items()):
            _plot_losses(panel, history, f"{fold} ", f"C{number % 10}")
        panel.set(title=network, xlabel="epoch", ylabel="loss")
        panel.legend(fontsize="x-small")
    for panel in panels[len(networks) :]:
        panel.set_axis_off()
    _save(figure, path)


def _plot_losses(panel: Axes, history: pd.DataFrame, prefix: str = "", colour: str = "C0") -> None:
    panel.plot(history["epoch"], history["loss"], "o-", color=colour, markersize=3, label=f"{prefix}training")
    if "inner_loss" in history:
        panel.plot(history["epoch"], history["inner_loss"], "s--", color=colour, markersize=3, label=f"{prefix}inner")
        best = history.loc[history["inner_loss"].idxmin()]
        panel.plot(best["epoch"], best["inner_loss"], "*", color=colour, markersize=11)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
