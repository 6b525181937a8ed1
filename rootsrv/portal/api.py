"""The API for programs of operators: JSON, over tokens of theirs (docs/portal.md)."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rootsrv.localroot.observations import ObservationsUnusable
from rootsrv.localroot.register import RegisterUnusable
from rootsrv.localroot.servers import NotAccepted, NotFound, Server, ServerWish
from rootsrv.localroot.subscribers import LiveKey, secret_text
from rootsrv.portal.accounts import User
from rootsrv.portal.configuration import Choice, configuration
from rootsrv.portal.describing import checked, contributed, described
from rootsrv.portal.rates import TooOften
from rootsrv.portal.visits import Portal
from rootsrv.process import json_text, log
from rootsrv.process.places import prefix_of
from rootsrv.resolvers.day_counts import CountsMalformed, DayCounts
from rootsrv.resolvers.wanted import CannotConfigure

# Nothing here looks at cookies: another site cannot make a browser use it.


class Call:
    """A request of a program, of whose user it is known who that is."""

    def __init__(
        self, portal: Portal, user: User, parts: Mapping[str, Any], body: Any, query: Mapping[str, str]
    ) -> None:
        self.portal, self.user, self.parts, self.body, self.query = portal, user, parts, body, query
        self.now = portal.now()

    def server(self) -> Server:
        """NotFound."""
        return self.portal.servers.get(self.user.id, int(self.parts["server"]))

    def wish(self) -> ServerWish:
        """NotAccepted names what is missing or wrong."""
        known = {"name": str, "software": str, "addresses": list, "zones": list, "contributes": bool}
        if not isinstance(self.body, dict):
            raise NotAccepted("", "a JSON object is needed")
        for key, value in self.body.items():
            if key not in known:
                raise NotAccepted(key[:80], f"unknown key (known: {', '.join(known)})")
            if not isinstance(value, known[key]):
                raise NotAccepted(key, "wrong type")
            if isinstance(value, list) and not all(isinstance(each, str) for each in value):
                raise NotAccepted(key, "must be strings")
        if missing := known.keys() - {"contributes"} - self.body.keys():
            raise NotAccepted(min(missing), "is missing")
        return ServerWish(**self.body)


Answer = tuple[HTTPStatus, Any]


def _servers(call: Call) -> Answer:
    mine = call.portal.servers.of_user(call.user.id)
    return HTTPStatus.OK, {"servers": [described(call.portal, each, call.now) for each in mine]}


def _add(call: Call) -> Answer:
    number = call.portal.servers.add(call.user.id, call.wish(), call.now)
    return HTTPStatus.CREATED, described(call.portal, call.portal.servers.get(call.user.id, number), call.now)


def _server(call: Call) -> Answer:
    return HTTPStatus.OK, described(call.portal, call.server(), call.now)


def _change(call: Call) -> Answer:
    call.portal.servers.change(call.user.id, call.server().id, call.wish(), call.now)
    return HTTPStatus.OK, described(call.portal, call.server(), call.now)


def _delete(call: Call) -> Answer:
    call.portal.servers.delete(call.user.id, call.server().id)
    return HTTPStatus.NO_CONTENT, None


def _check(call: Call) -> Answer:
    return HTTPStatus.OK, checked(call.portal, call.server(), call.now)


def _configuration(call: Call) -> Answer:
    choice = Choice(
        call.query.get("whole", "") == "yes",
        call.query.get("storage", ""),
        tuple(call.query.get("private_zones", "").replace(",", " ").split()),
        call.query.get("tls", "") == "yes",
    )
    return HTTPStatus.OK, {"configuration": configuration(call.portal.config, call.server(), choice)}


def _new_key(call: Call) -> Answer:
    algorithm = call.body.get("algorithm", "hmac-sha256") if isinstance(call.body, dict) else "hmac-sha256"
    server = call.server()
    key = call.portal.servers.new_key(call.user.id, server.id, call.now, str(algorithm))
    log.event("key made", server=server.id, key=key.name)
    text = _with_secret(call, server, key)
    return HTTPStatus.CREATED, {
        "name": key.name,
        "algorithm": key.algorithm,
        "secret": secret_text(key.secret),
        "configuration": text,
    }


def _with_secret(call: Call, server: Server, key: LiveKey) -> str | None:
    try:
        return configuration(call.portal.config, server, Choice(), key)
    except CannotConfigure:
        return None


def _delete_key(call: Call) -> Answer:
    server = call.server()
    call.portal.servers.delete_key(call.user.id, server.id, call.parts["key"])
    log.event("key deleted", server=server.id, key=call.parts["key"])
    return HTTPStatus.NO_CONTENT, None


def _notify(call: Call) -> Answer:
    zone = call.body.get("zone") if isinstance(call.body, dict) else None
    call.portal.servers.nudge(call.user.id, call.server().id, str(zone), call.now)
    return HTTPStatus.ACCEPTED, {"zone": zone}


def _counts(call: Call) -> Answer:
    sent = call.portal.contributions.of_server(call.server().id)
    return HTTPStatus.OK, {"counts": contributed(sent)}


def _contribute(call: Call) -> Answer:
    server, happened = call.server(), call.portal.happened
    try:
        counts = DayCounts.from_document(call.body)
        call.portal.contributions.take(server, counts, call.now)
    except (CountsMalformed, NotAccepted) as error:
        happened.add("counts", "refused")
        raise NotAccepted(error.field, str(error)) from error
    happened.add("counts", "taken")
    return HTTPStatus.OK, {"day": counts.day.isoformat(), "queries": counts.queries}


_CALLS: tuple[tuple[str, str, str, Callable[[Call], Answer]], ...] = (
    ("GET", "/servers", "read", _servers),
    ("POST", "/servers", "servers", _add),
    ("GET", "/servers/{server:int}", "read", _server),
    ("PUT", "/servers/{server:int}", "servers", _change),
    ("DELETE", "/servers/{server:int}", "servers", _delete),
    ("GET", "/servers/{server:int}/check", "read", _check),
    ("GET", "/servers/{server:int}/configuration", "read", _configuration),
    ("POST", "/servers/{server:int}/keys", "keys", _new_key),
    ("DELETE", "/servers/{server:int}/keys/{key}", "keys", _delete_key),
    ("POST", "/servers/{server:int}/notify", "servers", _notify),
    ("GET", "/servers/{server:int}/counts", "read", _counts),
    ("POST", "/servers/{server:int}/counts", "counts", _contribute),
)
"""Method, path below /api/v1, scope that the token needs, and what is done."""

_LARGEST_NUMBER = 2**63 - 1


def routes(portal: Portal) -> list[Route]:
    """For the application."""
    by_path: dict[str, dict[str, tuple[str, Callable[[Call], Answer]]]] = {}
    for method, path, scope, done in _CALLS:
        by_path.setdefault(path, {})[method] = scope, done
    made = [
        Route(f"/api/v1{path}", _endpoint(portal, methods), methods=list(methods)) for path, methods in by_path.items()
    ]
    made += [
        Route("/api/v1/statistics", _public(portal, _versions), methods=["GET"]),
        Route("/api/v1/contributed", _public(portal, _sums), methods=["GET"]),
    ]
    return made


def _endpoint(portal: Portal, methods: Mapping[str, tuple[str, Callable[[Call], Answer]]]) -> Any:
    async def endpoint(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        scope, done = methods[method]
        source = prefix_of(request.client.host) if request.client else b""
        try:
            portal.rates.take("request_by_source", source)
            portal.rates.check("wrong_token_by_source", source)
        except TooOften as error:
            return _error(HTTPStatus.TOO_MANY_REQUESTS, str(error), {"Retry-After": str(error.seconds)})
        try:
            octets = await request.body()
            body = json_text.parse(octets) if octets else None
        except ValueError:
            return _error(HTTPStatus.BAD_REQUEST, "the body is no JSON")
        except ClientDisconnect:
            return _error(HTTPStatus.BAD_REQUEST, "the body is not whole")
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        given = token.strip() if kind.lower() == "bearer" else ""
        return await run_in_threadpool(_do, portal, given, source, scope, done, request, body)

    return endpoint


def _do(
    portal: Portal,
    token: str,
    source: bytes,
    scope: str,
    done: Callable[[Call], Answer],
    request: Request,
    body: Any,
) -> Response:
    try:
        found = portal.tokens.owner(token, portal.now())
        if found is None:
            portal.rates.take("wrong_token_by_source", source)
            portal.happened.add("sign-ins", "token", "refused")
            log.security("token refused", source=source.hex())
            return _error(HTTPStatus.UNAUTHORIZED, "a token is needed", {"WWW-Authenticate": "Bearer"})
        user, scopes = found
        portal.happened.add("sign-ins", "token", "ok")
        if scope not in scopes:
            return _error(HTTPStatus.FORBIDDEN, f"this token is not for {scope}")
        if request.path_params.get("server", 0) > _LARGEST_NUMBER:
            raise NotFound("there is no such server")
        if scope != "read":
            portal.rates.take("change_of_account", user.id)
        status, document = done(Call(portal, user, request.path_params, body, request.query_params))
        portal.can_read(RegisterUnusable)
    except NotFound as error:
        return _error(HTTPStatus.NOT_FOUND, str(error))
    except NotAccepted as error:
        return JSONResponse({"error": str(error), "field": error.field}, HTTPStatus.UNPROCESSABLE_ENTITY)
    except CannotConfigure as error:
        return _error(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
    except TooOften as error:
        return _error(HTTPStatus.TOO_MANY_REQUESTS, str(error), {"Retry-After": str(error.seconds)})
    except (RegisterUnusable, ObservationsUnusable) as error:
        portal.cannot_read(error)
        return _error(HTTPStatus.SERVICE_UNAVAILABLE, "not now", {"Retry-After": "60"})
    except Exception as error:
        portal.failing_calls.raised(error, path=request.url.path)
        return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "that is our fault")
    return Response(status_code=status) if document is None else JSONResponse(document, status)


def _versions(portal: Portal) -> Any:
    fresh = {zone: portal.observed.fresh(zone) for zone in portal.config.zones}
    portal.can_read(ObservationsUnusable)
    return {zone: [asdict(each) for each in versions] for zone, versions in fresh.items()}


def _sums(portal: Portal) -> Any:
    return {
        "days": [
            {"operators": each.operators, "servers": each.servers, **each.counts.to_document()}
            for each in portal.contributions.sums()
        ]
    }


def _public(portal: Portal, document: Callable[[Portal], Any]) -> Any:
    """What everybody may have."""

    def found() -> Response:
        try:
            return JSONResponse(document(portal))
        except (RegisterUnusable, ObservationsUnusable) as error:
            portal.cannot_read(error)
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, "not now")

    async def endpoint(request: Request) -> Response:
        try:
            portal.rates.take("request_by_source", prefix_of(request.client.host) if request.client else b"")
        except TooOften as error:
            return _error(HTTPStatus.TOO_MANY_REQUESTS, str(error), {"Retry-After": str(error.seconds)})
        return await run_in_threadpool(found)

    return endpoint


def _error(status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, headers)
