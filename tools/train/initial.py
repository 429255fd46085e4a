"""Weights that a fresh drafter starts from: a copy of one of the target's layers, fed with the target's last state.

A drafter learns a step of the target from almost the target's own state, so the target's last layer and final norm are
a better beginning than noise. `fc` begins as the identity on the last state it reads. Whatever has no counterpart in
the target (the parts of `fc` and of EAGLE-3's projections that read other inputs) begins as small noise. A drafter of a
narrower feed-forward gets the neurons whose weights are the largest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .drafter_files import layer_sizes
from .networks import Eagle2, Eagle3
from .settings import Settings
from .targets import DraftedTarget

_NOISE = 0.5  # standard deviation of other inputs' weights, times 1 / sqrt(inputs)


def make_network(settings: Settings, target: DraftedTarget, given: Any, ids: tuple[int, ...]) -> Any:
    """What a run begins with, float32: a fresh network, or `given` with the head that is asked for.

    `ids` are the target's tokens that a reduced head knows. A new head starts as rows of the target's.
    """
    if settings.kind == "eagle2":
        if given is not None:
            return given
        fresh = Eagle2(layer_sizes(target, "eagle2", settings.ffn))
        start_from_target(fresh, target, settings.start_layer)
        return fresh
    if given is not None:
        if not ids and not settings.own_head:
            return given
        if given.lm_head is not None and ids in ((), given.draft_ids):
            return given
    assert settings.taps is not None
    network = Eagle3(
        given.sizes if given is not None else layer_sizes(target, "eagle3", settings.ffn),
        settings.taps,
        norm_before_fc=given.input_norm is not None if given is not None else settings.norm_before_fc,
        fc_norm=given.fc_norm is not None if given is not None else settings.fc_norm,
        norm_output=given.norm_output if given is not None else settings.norm_output,
        draft_ids=ids,
        own_head=settings.own_head,
        vocabulary=target.vocabulary,
    )
    if given is None:
        start_from_target(network, target, settings.start_layer)
    else:
        weights = {name: value for name, value in given.state_dict().items() if not name.startswith("lm_head.")}
        network.load_state_dict(weights, strict=False)
    if network.lm_head is not None:
        with torch.no_grad():
            rows = np.array(ids) if ids else np.arange(target.vocabulary)
            network.lm_head.weight.copy_(target.head_rows(rows))
    return network


def start_from_target(network: Any, target: DraftedTarget, number: int | None = None) -> None:
    """Fills a fresh Eagle2 or Eagle3 from the target's layer `number` (None: the last)."""
    source = target.layer(target.sizes.layers - 1 if number is None else number)
    layer = network.layers[0] if network.kind == "eagle2" else network.midlayer
    hidden = target.sizes.hidden
    _narrow_feed_forward(source, network.sizes.feed_forward)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            theirs = source.get("input_layernorm.weight" if name == "hidden_norm.weight" else name)
            if theirs is None or name == "input_layernorm.weight":
                continue
            if theirs.shape == parameter.shape:
                parameter.copy_(theirs)
            elif theirs.shape[0] == parameter.shape[0] and parameter.shape[1] == 2 * theirs.shape[1]:
                # (outputs, embedding | state)
                parameter[:, :hidden].mul_(_NOISE)
                parameter[:, hidden:] = theirs
        network.fc.weight.mul_(_NOISE)
        network.fc.weight[:, -hidden:] = torch.eye(hidden)
        if network.kind == "eagle3":
            network.norm.weight.copy_(target.final_norm())


def _narrow_feed_forward(source: dict[str, Tensor], width: int) -> None:
    """Keeps the `width` neurons that can add most: by the product of the norms of what leads in and out."""
    names = ("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight")
    if any(name not in source for name in names) or source[names[0]].shape[0] <= width:
        return
    gate, up, down = (source[name] for name in names)
    size = gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)
    kept = size.topk(width).indices.sort().values
    source.update({names[0]: gate[kept], names[1]: up[kept], names[2]: down[:, kept]})
