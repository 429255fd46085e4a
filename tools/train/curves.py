"""Loss and acceptance over the steps of a run, as a PNG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..atomic import atomic_output
from ..console import require


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log.jsonl; a torn last line is left out."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline was cut off while it was written
    return [json.loads(line) for line in lines]


def draw_curves(path: Path, records: list[dict[str, Any]], title: str) -> None:
    """Draws the training and validation records of a run: loss above, shares in percent below.

    Training records hold `train_loss` and `train_acceptance`, validation records `loss` and any of `acceptance` and
    `coverage`: lists per draft step, or named shares.
    """
    require("matplotlib", "frspec-train", "frspec_cpp[train]").use("Agg")
    plot = require("matplotlib.pyplot", "frspec-train", "frspec_cpp[train]")
    figure, (upper, lower) = plot.subplots(2, 1, figsize=(8, 8), sharex=True, layout="constrained")
    trained = [record for record in records if "train_loss" in record]
    checked = [record for record in records if "loss" in record]
    for axes, before, after, scale in (
        (upper, "train_loss", "loss", 1.0),
        (lower, "train_acceptance", "acceptance", 100.0),
    ):
        _steps(axes, trained, before, scale, "training", {"linewidth": 0.8, "alpha": 0.45})
        _steps(axes, checked, after, scale, "held out", {"linewidth": 1.6, "marker": "o", "markersize": 3})
    names = list(checked[-1].get("coverage", {})) if checked else []
    for number, name in enumerate(names):
        values = [100.0 * record["coverage"][name] for record in checked]
        lower.plot([r["step"] for r in checked], values, color=f"C{number}", marker="o", markersize=3, label=name)
    upper.set(ylabel="cross-entropy (nats per token)", title=title)
    lower.set(xlabel="step", ylabel="coverage (%)" if names else "acceptance: same likeliest token (%)")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, ncols=2)
    with atomic_output(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plot.close(figure)


def _steps(axes: Any, records: list[dict[str, Any]], key: str, scale: float, name: str, style: dict[str, Any]) -> None:
    """One line per draft step."""
    records = [record for record in records if key in record]
    for step in range(len(records[-1][key]) if records else 0):
        values = [scale * record[key][step] for record in records]
        axes.plot([r["step"] for r in records], values, color=f"C{step}", label=f"{name}, draft {step + 1}", **style)
