"""All pages put together: an ASGI application."""

from http import HTTPStatus

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rootsrv.portal import account_pages, api, public_pages, server_pages, signing_in
from rootsrv.portal.guard import Guard
from rootsrv.portal.visits import Portal, View, page

_BOTH, _GET, _POST = ("GET", "POST"), ("GET",), ("POST",)

_PAGES: tuple[tuple[str, View, tuple[str, ...]], ...] = (
    ("/", public_pages.home, _GET),
    ("/statistics", public_pages.statistics, _GET),
    ("/privacy", public_pages.privacy, _GET),
    ("/sign-up", signing_in.sign_up, _BOTH),
    ("/recover", signing_in.recover, _BOTH),
    ("/link/{link}", signing_in.link, _BOTH),
    ("/link/{link}/passkey-options", signing_in.link_passkey_options, _POST),
    ("/link/{link}/passkey", signing_in.link_passkey, _POST),
    ("/sign-in", signing_in.sign_in, _BOTH),
    ("/sign-in/passkey-options", signing_in.passkey_options, _POST),
    ("/sign-in/passkey", signing_in.sign_in_passkey, _POST),
    ("/sign-out", signing_in.sign_out, _POST),
    ("/prove", signing_in.prove, _BOTH),
    ("/prove/passkey-options", signing_in.passkey_options, _POST),
    ("/prove/passkey", signing_in.prove_passkey, _POST),
    ("/account", account_pages.account, _GET),
    ("/account/name", account_pages.name, _POST),
    ("/account/email", account_pages.email, _POST),
    ("/account/password", account_pages.password, _POST),
    ("/account/mails", account_pages.mails, _POST),
    ("/account/passkey-options", account_pages.passkey_options, _POST),
    ("/account/passkey", account_pages.passkey, _POST),
    ("/account/passkeys/delete", account_pages.delete_passkey, _POST),
    ("/account/tokens", account_pages.token, _POST),
    ("/account/tokens/delete", account_pages.delete_token, _POST),
    ("/account/sessions/end", account_pages.sign_out_others, _POST),
    ("/account/export", account_pages.export, _GET),
    ("/account/delete", account_pages.delete, _BOTH),
    ("/servers", server_pages.servers, _GET),
    ("/servers/new", server_pages.new, _BOTH),
    ("/servers/{server}", server_pages.server, _GET),
    ("/servers/{server}/check", server_pages.check, _GET),
    ("/servers/{server}/edit", server_pages.edit, _BOTH),
    ("/servers/{server}/delete", server_pages.delete, _BOTH),
    ("/servers/{server}/keys", server_pages.new_key, _POST),
    ("/servers/{server}/keys/delete", server_pages.delete_key, _POST),
    ("/servers/{server}/notify", server_pages.notify, _POST),
)


def application(portal: Portal) -> ASGIApp:
    """For a server."""
    routes = [Route(path, page(portal, view), methods=list(methods)) for path, view, methods in _PAGES]
    routes += api.routes(portal)
    routes.append(Route("/static/{name}", public_pages.static, methods=["GET"]))
    routes.append(Route("/.well-known/change-password", _change_password, methods=["GET"]))
    made = Starlette(routes=routes, exception_handlers={404: _missing, 405: _missing})
    made.router.redirect_slashes = False
    return Guard(made, portal.config, portal.happened)


async def _change_password(_: Request) -> Response:
    """Where password managers look (W3C, A Well-Known URL for Changing Passwords)."""
    return RedirectResponse("/account", HTTPStatus.SEE_OTHER)


async def _missing(_: Request, error: Exception) -> Response:
    status = HTTPStatus(getattr(error, "status_code", 404))
    return PlainTextResponse(f"{status.value} {status.phrase}\n", status, getattr(error, "headers", None))
