"""Loss and acceptance over the steps of a run, as a PNG."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from ..atomic import atomic_output
from ..console import require

_POINTS = 100  # of a training curve


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log.jsonl; lines that were cut off while they were written are left out."""
    records: list[dict[str, Any]] = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.is_file() else []:
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records


def draw_curves(path: Path, records: list[dict[str, Any]], title: str) -> None:
    """Draws the training and validation records of a run: loss above, shares in percent below.

    Training records hold `train_loss` and `train_acceptance`, validation records `loss` and either `acceptance` (all of
    these are lists by draft step) or `coverage` (shares by name).
    """
    require("matplotlib", "frspec-train", "frspec_cpp[train]").use("Agg")
    plot = require("matplotlib.pyplot", "frspec-train", "frspec_cpp[train]")
    figure, (upper, lower) = plot.subplots(2, 1, figsize=(8, 8), sharex=True, layout="constrained")
    trained = _means([record for record in records if "train_loss" in record])
    checked = [record for record in records if "loss" in record]
    covers = bool(checked) and "coverage" in checked[-1]
    _by_step(upper, trained, "train_loss", 1.0, "training", {"linewidth": 0.9, "alpha": 0.5})
    _by_step(upper, checked, "loss", 1.0, "held out", {"marker": "o", "markersize": 3})
    if covers:
        for name in checked[-1]["coverage"]:
            values = [100.0 * record["coverage"][name] for record in checked]
            lower.plot([r["step"] for r in checked], values, marker="o", markersize=3, label=name)
    else:
        _by_step(lower, trained, "train_acceptance", 100.0, "training", {"linewidth": 0.9, "alpha": 0.5})
        _by_step(lower, checked, "acceptance", 100.0, "held out", {"marker": "o", "markersize": 3})
    upper.set(ylabel="cross-entropy (nats per token)", title=title)
    lower.set(
        xlabel="step", ylabel="true best tokens found by the sketch (%)" if covers else "same likeliest token (%)"
    )
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, ncols=2)
    with atomic_output(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plot.close(figure)


def _means(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most some 100 records, each the mean of consecutive ones: single batches differ too much to be seen."""
    size = -(-len(records) // _POINTS)
    groups = [records[begin : begin + size] for begin in range(0, len(records), size or 1)]
    return [
        {
            "step": group[-1]["step"],
            **{
                key: [sum(values) / len(group) for values in zip(*(record[key] for record in group), strict=True)]
                for key in ("train_loss", "train_acceptance")
            },
        }
        for group in groups
    ]


def _by_step(axes: Any, records: list[dict[str, Any]], key: str, scale: float, name: str, style: Any) -> None:
    """One line per draft step."""
    for step in range(len(records[-1][key]) if records else 0):
        values = [scale * record[key][step] for record in records]
        axes.plot([r["step"] for r in records], values, color=f"C{step}", label=f"{name}, draft {step + 1}", **style)
