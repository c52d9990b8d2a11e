"""The results of benchmarks.gpu as text: machine, networks, comparison with PyTorch, contest, missing parts."""

from typing import Any

from benchmarks.gpu_networks import TRAINING_PASSES
from submissions.text_table import legend, text_table

LIBRARIES = ("keras", "tensorflow", "tensorflow-cpu", "jax", "torch", "numpy")
#: Title of a column -> its meaning.
NETWORK_COLUMNS = {
    "px": "height and width of the input, pixels",
    "GFLOP": "floating-point operations of one forward pass: convolutions and dense layers, for one image; training "
    f"counts {TRAINING_PASSES} times",
    "train/s": "images per second of the training step on one batch that lies on the device",
    "infer/s": "images per second of the prediction of that batch",
    "of peak": "share of the measured peak of matrix products",
    "loop": "time of a step of the real training loop, as a multiple of the step on that one batch (aim: 1.03 or less)",
    "waits": "share of the loop's time in which the device waits",
    "GB": "highest use of device memory in training, if the backend reports it",
}


def report_text(results: dict[str, Any]) -> str:
    """Format the results of `benchmarks.gpu`, whether complete or not."""
    parts = [_machine(results)]
    if results["networks"]:
        parts += [_networks(results), legend(NETWORK_COLUMNS)]
    if any("pytorch" in row for row in results["networks"]):
        parts.append(_beside_pytorch(results))
    if results["contest"]:
        parts.append(_contest(results["contest"]))
    if results["not_measured"]:
        missing = [f"  {title}: {reason}" for title, reason in results["not_measured"].items()]
        parts.append("\n".join(["Not measured:", *missing]))
    return "\n\n".join(parts)


def _machine(results: dict[str, Any]) -> str:
    """What was measured, and on what."""
    device, machine = results["device"], results["hardware"]
    versions = [f"{name} {results['versions'][name]}" for name in LIBRARIES if name in results["versions"]]
    memory, cards = f"{machine['memory_gb']:.0f} GB", ", ".join(machine["graphics"]) or "no NVIDIA GPU"
    driver = f", driver {results['driver'].splitlines()[0]}" if results["driver"] else ""
    lines = [
        f"{results['when']}, commit {results['commit'] or 'unknown'}, Keras on {results['backend']}",
        f"machine: {machine['processor']}, {machine['cores']} cores, {memory}; {cards}{driver}",
        f"versions: {', '.join(versions)}, Python {results['versions']['python']}",
    ]
    if device:
        peak = f"{device['peak_flops'] / 1e12:,.2f} TFLOP/s in products of matrices"
        lines.append(f"device: {device['device']} ({device['kind']}), {peak}; networks in {device['precision']}")
        lines += [f"warning: {device['warning']}"] if device["warning"] else []
    return "\n".join(lines)


def _networks(results: dict[str, Any]) -> str:
    """The table of the networks."""
    peak = results["device"]["peak_flops"]
    header = ["network", "px", "GFLOP", "train/s", "of peak", "infer/s", "of peak", "loop", "waits", "GB"]
    cells = []
    for row in results["networks"]:
        training = TRAINING_PASSES * row["flops"] * row["train"] / peak
        memory = "-" if row["memory"] is None else f"{row['memory'] / 1e9:.1f}"
        cells.append(
            [
                row["backbone"], str(row["size"]), f"{row['flops'] / 1e9:.2f}", _speed(row["train"]), _share(training),
                _speed(row["infer"]), _share(row["flops"] * row["infer"] / peak), f"{row['loop']:.3f}",
                _share(max(0.0, 1 - 1 / row["loop"])), memory,
            ]
        )  # fmt: skip
    return text_table(header, cells)


def _beside_pytorch(results: dict[str, Any]) -> str:
    """The table of the networks that PyTorch has as well."""
    cells = []
    for row in results["networks"]:
        for work, title in (("train", "training"), ("infer", "inference")):
            if "pytorch" in row:
                other = row["pytorch"]
                ratio = f"{row[work] / other[work]:.2f}"
                speeds = [_speed(row[work]), _speed(other[work])]
                cells.append([row["backbone"], title, other["variant"], str(row["size"]), *speeds, ratio])
    header = ["network", "work", "PyTorch is", "px", "this/s", "PyTorch/s", "ratio"]
    note = "The same networks in plain PyTorch, channels_last; above 1 this project is faster."
    return f"{note}\n{text_table(header, cells, left=3)}"


def _contest(contest: dict[str, Any]) -> str:
    """The scores of the contest."""
    cells = [
        [
            contest["candidates"][role],
            title,
            f"{contest['scores'][role]['cv']:.3f}",
            f"{contest['scores'][role]['test']:.3f}",
        ]
        for role, title in (("network", "network"), ("promoted", "promoted candidate"), ("priors", "label priors"))
    ]
    note = (
        f"Contest of settings/tests.toml, end to end in {contest['seconds']:.0f} s; metric, lower is better. Synthetic"
    )
    table = text_table(["candidate", "is the", "out of fold", "test truth"], cells, left=2)
    return f"{note}, with too few exams to learn from: it shows that the pipeline works on this device.\n{table}"


def _speed(images_per_second: float) -> str:
    return f"{images_per_second:,.0f}" if images_per_second >= 100 else f"{images_per_second:.1f}"


def _share(share: float) -> str:
    return f"{100 * share:.1f} %"
