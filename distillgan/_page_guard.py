"""Who may talk to the page's server, and whom the page may talk to."""

from __future__ import annotations

from typing import Any

_HERE = (b"127.0.0.1", b"localhost")
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # gradio compiles its templates
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "object-src 'none'",
        "frame-ancestors 'none'",
        "form-action 'self'",
    )
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Guard:
    """ASGI middleware: refuses what another web site sends to this machine, and keeps the page at home.

    Without it a site that is open in the same browser could delete models: it may post to 127.0.0.1,
    under its own name or, by DNS rebinding, under ours.
    """

    def __init__(self, app: Any):
        self._app = app

    @classmethod
    def app_options(cls) -> dict[str, Any]:
        """What to give gradio's `launch` as `app_kwargs`."""
        from starlette.middleware import Middleware

        return {"middleware": [Middleware(cls)]}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer 403."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif _is_from_here(dict(scope["headers"])):
            await self._app(scope, receive, _with_headers(send))
        else:
            await _refuse(send)


def _is_from_here(headers: dict[bytes, bytes]) -> bool:
    """Whether a request names this machine and comes from no page but ours (a port makes another site)."""
    host = headers.get(b"host", b"")
    return host.partition(b":")[0] in _HERE and headers.get(b"origin", b"http://" + host) == b"http://" + host


def _with_headers(send: Any) -> Any:
    async def send_more(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return send_more


async def _refuse(send: Any) -> None:
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"This page answers this machine alone."})
