"""Weights that a fresh drafter starts from: a copy of the target's last layer, fed with the target's last state.

A drafter learns a step of the target from almost the target's own state, so the target's last layer and final norm are
a better beginning than noise. `fc` begins as the identity on the last state it reads. Whatever has no counterpart in
the target (the parts of `fc` and of EAGLE-3's projections that read other inputs) begins as small noise.
"""

from __future__ import annotations

from typing import Any

import torch

from .frozen_target import FrozenTarget

_NOISE = 0.5  # standard deviation of other inputs' weights, times 1 / sqrt(inputs)


def start_from_target(network: Any, target: FrozenTarget) -> None:
    """Fills a fresh Eagle2 or Eagle3 of the target's layer sizes."""
    decoder = target.model.model
    source = dict(decoder.layers[-1].named_parameters())
    source = {name: value.float() for name, value in source.items()}
    layer = network.layers[0] if network.kind == "eagle2" else network.midlayer
    hidden = target.sizes.hidden
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            theirs = source.get("input_layernorm.weight" if name == "hidden_norm.weight" else name)
            if theirs is None or name == "input_layernorm.weight":
                continue
            if theirs.shape == parameter.shape:
                parameter.copy_(theirs)
            else:  # (outputs, embedding | state)
                parameter[:, :hidden].mul_(_NOISE)
                parameter[:, hidden:] = theirs
        network.fc.weight.mul_(_NOISE)
        network.fc.weight[:, -hidden:] = torch.eye(hidden)
        if network.kind == "eagle3":
            network.norm.weight.copy_(decoder.norm.weight)
