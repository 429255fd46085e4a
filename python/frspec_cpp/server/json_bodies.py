"""Reading the bodies of requests: JSON as its standard has it, of a depth that templates can walk."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from frspec_cpp.server.errors import ApiError

_MAX_DEPTH = 64
_LONG = 2**16  # bytes: reading more would keep other requests waiting


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"found {name}, which is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"found {text[:40]}, expected a number of 64 bits")
    return number


def _depth(value: Any) -> int:
    """Of nested lists and objects."""
    depth = 0
    level = [value]
    while level:
        depth += 1
        level = [
            item
            for parent in level
            for item in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(item, (dict, list))
        ]
    return depth


def parsed(body: bytes) -> dict[str, Any]:
    """The object of a body.

    Raises:
        ApiError: It is no JSON, no object, or too deep.
    """
    try:
        value = json.loads(body, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise ApiError(400, f"body: found more than {_MAX_DEPTH} nested lists and objects", None, "too_deep") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError among them
        raise ApiError(400, f"body: found no valid JSON: {error}", None, "invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"body: found {type(value).__name__}, expected a JSON object", None, "invalid_json")
    if _depth(value) > _MAX_DEPTH:
        raise ApiError(400, f"body: found more than {_MAX_DEPTH} nested lists and objects", None, "too_deep")
    return value


class _StrictRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        return await asyncio.to_thread(parsed, body) if len(body) > _LONG else parsed(body)


class StrictRoute(APIRoute):
    """A route that reads bodies with :func:`parsed`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, given such a request."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            answer: Response = await handler(_StrictRequest(request.scope, request.receive))
            return answer

        return strict
