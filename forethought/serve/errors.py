"""What a client is told when something is wrong, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse

NO_MODEL, TOO_LONG = "model_not_found", "context_length_exceeded"


class ApiError(Exception):
    """An answer that is an error. `message` is for the client: no hidden text, nothing of an upstream's own words
    about it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """What stands under `error`."""
        return {"message": self.message, "type": _kind(self.status), "param": self.param, "code": self.code}

    def reply(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse({"error": self.body}, self.status, self.headers)


def _kind(status: int) -> str:
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    return kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")


def wrong(param: str, message: str, code: str = "invalid_value") -> ApiError:
    """A parameter that cannot be as it is."""
    return ApiError(400, message, code=code, param=param)


def failed() -> ApiError:
    """The engine gave nothing that could be answered with; why stands in the server's log, for it may hold thoughts."""
    return ApiError(502, "The model behind this server failed to answer; try again.", code="engine_error")


def unreadable(errors: Sequence[Any]) -> ApiError:
    """A body that does not have the form it should, by pydantic's list of what is wrong."""
    first = errors[0]
    at = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return ApiError(400, "The body is not valid JSON.", code="invalid_json")
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_type"
    return ApiError(400, f"{at or 'The body'}: {first['msg']}.", code=code, param=at or None)
