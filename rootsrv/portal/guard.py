"""What every request passes before anything looks at it, and every response on its way out: ASGI around the pages."""

import asyncio
import ipaddress
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rootsrv.config.checks import plain_address
from rootsrv.config.portal import PortalConfig
from rootsrv.portal.counting import Happenings

MAX_BODY_OCTETS = 65_536
BODY_SECONDS = 5.0
ANSWER_SECONDS = 30.0

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # "no-referrer" would have browsers say "Origin: null" with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_YEAR = 31_536_000


class Guard:
    """Host, size and time of requests; headers of responses; whose address it is behind a proxy."""

    def __init__(self, app: ASGIApp, config: PortalConfig, happened: Happenings) -> None:
        self._app = app
        self._happened = happened
        self._host = config.url.partition("://")[2]
        default = ":443" if config.is_https else ":80"
        self._hosts = {self._host, self._host + default if ":" not in self._host else self._host}
        self._proxies = {plain_address(each) for each in config.trusted_proxies}
        self._headers = dict(_HEADERS)
        if config.is_https:
            self._headers["Strict-Transport-Security"] = f"max-age={_YEAR}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("HTTP only")
        began = False
        headers = Headers(scope=scope)
        body = _Body(receive, headers)

        async def send_with_headers(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                self._happened.add("requests", int(message["status"]))
                ours = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    ours[name] = value
                ours.setdefault("Cache-Control", "no-store")
                if not body.complete:  # nobody reads the rest of it
                    ours["Connection"] = "close"
            await send(message)

        async def refuse(status: HTTPStatus) -> None:
            response = Response(f"{status.value} {status.phrase}\n", status, {"Connection": "close"}, "text/plain")
            await response(scope, receive, send_with_headers)

        # Two of them, or another host's: a page that is made for one name would be cached or linked under another.
        if headers.getlist("host") not in [[each] for each in self._hosts]:
            await refuse(HTTPStatus.MISDIRECTED_REQUEST)
            return
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:20]) > MAX_BODY_OCTETS:
            await refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        scope = {**scope, "client": self._client(scope, headers)}
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._app(scope, body.receive, send_with_headers)
        except TimeoutError:
            if not began:
                await refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _client(self, scope: Scope, headers: Headers) -> tuple[str, int] | None:
        """Who asks: behind a proxy that is ours, whom that one names; what stands before may be anybody's words."""
        client = scope.get("client")
        if client is None:
            return None
        told = [each.strip() for line in headers.getlist("x-forwarded-for") for each in line.split(",")]
        address = client[0]
        while told and plain_address(address) in self._proxies:
            try:
                address = str(ipaddress.ip_address(told.pop()))
            except ValueError:
                break
        return address, client[1]


class _Body:
    """The body of a request: only so large, and only so slow."""

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        self._octets = 0
        self._ends = asyncio.get_running_loop().time() + BODY_SECONDS
        self.complete = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        """Whether all of it was read, or there is none."""

    async def receive(self) -> Message:
        """HTTPException for whoever sends too much or too slowly."""
        if self.complete:  # what comes now may be the end of the connection, some time
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._ends):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT) from None
        self._octets += len(message.get("body", b""))
        if self._octets > MAX_BODY_OCTETS:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        self.complete = not message.get("more_body", False)
        return message
