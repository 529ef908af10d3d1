"""What goes wrong, in the shape that OpenAI's clients know."""

from dataclasses import dataclass, field
from typing import Any

RETRY_AFTER_S = 5


@dataclass(eq=False)
class ApiError(Exception):
    """A request that is answered by an error; a process may send it to another."""

    status: int  # of HTTP: 400 what was asked for cannot be, 401, 404, 408, 413, 422, 429, 500, 503
    message: str  # what must hold, what was found, and the way out
    code: str | None = field(default=None, kw_only=True)  # names the kind of error to programs
    param: str | None = field(default=None, kw_only=True)  # the field at fault

    def __str__(self) -> str:
        return self.message

    @property
    def headers(self) -> dict[str, str]:
        """When to try again; a client tries again by itself only where that can help."""
        if self.status in (429, 503):
            return {"retry-after": str(RETRY_AFTER_S)}
        return {"x-should-retry": "false"}

    def body(self) -> dict[str, Any]:
        """Return the answer."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def invalid(name: str, must: str, found: str) -> ApiError:
    """Return the error for a field that is not as it must be."""
    return ApiError(400, f"{name} {must}, found {found}", code="invalid_value", param=name)
