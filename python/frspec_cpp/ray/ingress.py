"""The server in front of the replicas, and the application of both for Ray Serve."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from frspec_cpp.option_table import ROWS
from frspec_cpp.ray.engine import RemoteModel, Replicas
from frspec_cpp.ray.replica import Replica
from frspec_cpp.ray.routing import ByBeginning
from frspec_cpp.server import info
from frspec_cpp.server.app import build_app
from frspec_cpp.server.service import Service
from frspec_cpp.server.settings import Settings, keep_apart

_REQUESTS = 1024  # that are answered at once, for each replica; the server's own limit is lower, and it says so
_ASKED = 256  # texts that a replica is given at once: its queue decides which are written first


@serve.ingress()
class Ingress:
    """Reads requests and tells answers, as `frspec serve` does; replicas write the texts.

    Args:
        model: The model's file, for its tokens and templates.
        settings: Of the server.
        replicas: The deployment that writes.
        count: Of its replicas.
    """

    async def __init__(  # type: ignore[misc]  # Serve waits for it
        self, model: str, settings: Settings, replicas: DeploymentHandle[Any], count: int
    ) -> None:
        told = await replicas.describe.remote()
        engine = Replicas(replicas, RemoteModel(model, told, count), settings.max_queue)
        all_of_them = replace(settings, max_requests=count * settings.max_requests)
        self._service = Service(engine, model, all_of_them)
        self._service.meta = info.read_meta(self._service)
        self._service.state = "ready"

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_app(self._service)


def app(arguments: Mapping[str, Any]) -> serve.Application:
    """The application, for ``serve run frspec_cpp.ray:app NAME=VALUE ...``, a config file, or ``serve.run``.

    Args:
        arguments: ``model``, a file that every machine has under this path; ``drafter``; ``replicas`` (1), one for a
            machine; ``num_cpus``, that Ray sets aside for each (all of the machine's that it is called on);
            ``settings``, a dictionary of the server's (:class:`frspec_cpp.server.settings.Settings`); ``options``, one
            of :class:`frspec_cpp.LLM`'s.

    Raises:
        ValueError: There is no model, an argument is unknown, or several keys would share what an option wants.
    """
    given = dict(arguments)
    model, drafter = given.pop("model", None), given.pop("drafter", None)
    if not isinstance(model, str):
        raise ValueError(f"model: found {model!r}, expected the path of a GGUF file")
    count, cpus = int(given.pop("replicas", 1)), float(given.pop("num_cpus", os.cpu_count() or 1))
    settings = Settings(**given.pop("settings", {}))
    options = keep_apart(settings.keys, given.pop("options", {}))
    if given:
        known = "model, drafter, replicas, num_cpus, settings, options"
        raise ValueError(f"{next(iter(given))}: an unknown argument, expected some of {known}")
    places = int(options.get("n_parallel") or ROWS["n_parallel"]["none"])
    writers = serve.deployment(Replica).options(
        num_replicas=count,
        max_ongoing_requests=_ASKED,
        ray_actor_options={"num_cpus": cpus},
        request_router_config=RequestRouterConfig(
            request_router_class=ByBeginning, request_router_kwargs={"places": places}
        ),
    )
    front = serve.deployment(Ingress).options(max_ongoing_requests=count * _REQUESTS, ray_actor_options={"num_cpus": 0})
    return front.bind(model, settings, writers.bind(model, drafter, settings.max_queue, options), count)
