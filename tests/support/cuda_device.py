"""The device that tests of the CUDA backend run on: the emulated one, unless FRSPEC_DEVICE names a real one."""

from __future__ import annotations

from frspec_cpp import _core

_chosen = _core.default_device()
DEVICE = _chosen if _chosen.startswith("cuda") else "cuda-emulated"
