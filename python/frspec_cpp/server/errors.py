"""Errors as OpenAI's clients know them: ``{"error": {"message", "type", "param", "code"}}``, always."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from frspec_cpp.async_llm import NotAccepting, QueueFull, QueueTimeout
from frspec_cpp.texts import Cancelled

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    501: "not_supported_error",
    503: "unavailable_error",
}
_LONGEST = 2000  # characters of a message: it may quote what was sent
_logger = logging.getLogger("frspec.server")


class ErrorFields(BaseModel):
    """What an error says."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """An error, as it is sent."""

    error: ErrorFields


class ApiError(HTTPException):
    """An error that the client is told of.

    Args:
        status: Of HTTP.
        message: A sentence for people.
        param: The field that it is about.
        code: A word for programs.
        headers: Of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        # OpenAI's clients would ask again: what is not there will not come.
        again = {"x-should-retry": "false"} if status == 501 else {}
        super().__init__(status, detail=message, headers={**again, **(headers or {})})
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """The object that is sent."""
        default = "server_error" if self.status_code >= 500 else "invalid_request_error"
        # What a message quotes may hold a lone surrogate, which is no UTF-8.
        message = str(self.detail)[:_LONGEST].encode(errors="replace").decode()
        kind = _TYPES.get(self.status_code, default)
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The answer."""
        return JSONResponse(self.body(), self.status_code, headers=self.headers)


def refused(param: str, message: str) -> ApiError:
    """A field that would change the answer, and that this server cannot heed."""
    return ApiError(400, f"{param}: {message}", param, "unsupported_value")


def api_error(error: Exception) -> ApiError:
    """What the client is told of an error of the library, which a ValueError makes its own fault."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFull):
        return ApiError(429, f"the queue is full: {error}", None, "queue_full", {"retry-after": str(error.retry_after)})
    if isinstance(error, QueueTimeout):
        return ApiError(408, str(error), "timeout", "queue_timeout")
    if isinstance(error, (NotAccepting, Cancelled)):
        return ApiError(503, "the server is shutting down", None, "shutting_down")
    if isinstance(error, ValueError):
        name = re.match(r"(\w+)[\[:]", str(error))
        return ApiError(400, str(error), name[1] if name else None, "invalid_value")
    return unexpected(error)


def unexpected(error: Exception) -> ApiError:
    """What the client is told of an error of the server: a number, under which its log has more."""
    if isinstance(error, ApiError):
        return error
    number = secrets.token_hex(8)
    _logger.error("error %s", number, exc_info=error)
    return ApiError(500, f"something went wrong in the server; its log has it under {number}", None, "internal_error")


def _invalid(error: RequestValidationError) -> ApiError:
    """The first of the fields that are wrong, with what was found."""
    problems = error.errors()
    first = problems[0]["loc"][:2]
    # Of a field that may be several things, the one that it has the type of.
    alike = [problem for problem in problems if problem["loc"][:2] == first]
    problem = next((one for one in alike if not one["type"].endswith("_type")), alike[0])
    where = [str(part) for part in problem["loc"] if part != "body"]
    param = where[0] if where else None
    # Between fields and numbers stand the names of the things that it may be: list[...], constrained-str.
    path = ".".join(
        part for part in where if re.fullmatch(r"[\w.]+", part) and part not in ("str", "int", "float", "bool")
    )
    if problem["type"] == "missing":
        return ApiError(400, f"{path or 'body'}: {problem['msg']}", param, "missing_required_parameter")
    found = repr(problem.get("input"))
    found = found if len(found) <= 200 else found[:200] + " ..."
    return ApiError(400, f"{path or 'body'}: found {found}: {problem['msg']}", param, "invalid_value")


async def handle(request: Request, error: Exception) -> Response:
    """FastAPI's handler of errors that a client is told of."""
    if isinstance(error, RequestValidationError):
        return _invalid(error).response()
    if isinstance(error, HTTPException) and not isinstance(error, ApiError):
        message = str(error.detail)
        if error.status_code in (404, 405):
            message = f"{message}: {request.method} {request.url.path[:200]}; /openapi.json tells what there is"
        return ApiError(error.status_code, message, headers=error.headers).response()
    return unexpected(error).response()
