"""One request of a browser: who it is, what it wants, and what becomes of what is raised on the way."""
# Theory of operation
# -------------------
# A view is a function of a Visit that returns a response; it runs in a thread, so that it may wait for the disk and for
# argon2, and nothing else waits with it.
#
# Against requests that another site makes a browser send: the cookie is SameSite=Lax, Origin and Sec-Fetch-Site must be
# ours where a browser says them, and what changes something carries a token that only our pages know.

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import jinja2
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from rootsrv.config.portal import PortalConfig
from rootsrv.localroot.contributions import Contributions
from rootsrv.localroot.observations import ObservationsUnusable, Observed
from rootsrv.localroot.register import Register, RegisterUnusable
from rootsrv.localroot.servers import NotAccepted, NotFound, Servers
from rootsrv.portal import letters
from rootsrv.portal.accounts import PROVED_SECONDS, SESSION_LONGEST_SECONDS, Accounts, Session, User
from rootsrv.portal.counting import Happenings
from rootsrv.portal.mails import Mails
from rootsrv.portal.passkeys import Passkeys
from rootsrv.portal.passwords import Busy, Passwords
from rootsrv.portal.rates import TooOften, Tries
from rootsrv.portal.tokens import Tokens
from rootsrv.process import json_text
from rootsrv.process.places import prefix_of
from rootsrv.process.troubles import Troubles

_MAX_FIELDS = 100


class SignInFirst(Exception):
    """Nobody is signed in."""


class ProveFirst(Exception):
    """It is long ago that passkey or password were shown."""


class ForgedRequest(Exception):
    """Another site may have made the browser send this."""


class Portal:
    """All that views work with."""

    def __init__(self, config: PortalConfig, register: Register, observed: Observed) -> None:
        self.config = config
        self.accounts = Accounts(register)
        self.tokens = Tokens(self.accounts)
        self.servers = Servers(
            register, config.key_domain or config.host, config.zones, private=config.private_addresses
        )
        self.contributions = Contributions(register)
        self.passwords = Passwords()
        self.passkeys = Passkeys(self.accounts, config.host, config.url, config.title)
        self.rates = Tries(time.monotonic)
        self.happened = Happenings()
        self.mails = Mails(register, config, self.happened)
        self.observed = observed
        self.now: Callable[[], float] = time.time
        self.unsent = Troubles("mail not sent", "mails are taken again")
        self.failing_pages, self.failing_calls = Troubles("page failed"), Troubles("call failed")
        self._unread = Troubles("what pages show cannot be read", "what pages show can be read again")
        self._csrf_key = register.seal.derived("csrf")
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["when"] = when
        self._templates.globals["portal"] = config

    def cannot_read(self, error: RegisterUnusable | ObservationsUnusable) -> None:
        """Of one of both: told once, however many pages are asked for meanwhile."""
        self._unread.met(error, key=type(error))

    def can_read(self, kind: type[RegisterUnusable | ObservationsUnusable]) -> None:
        """What raises *kind* was read."""
        self._unread.over(kind)

    @property
    def cookie_name(self) -> str:
        """`__Host-`: browsers take it over TLS from this very host only (RFC 6265bis §4.1.3)."""
        return "__Host-visit" if self.config.is_https else "visit"

    def csrf(self, cookie: str) -> str:
        """What forms carry that the browser with *cookie* was given."""
        return hmac.new(self._csrf_key, cookie.encode(), hashlib.sha256).hexdigest()

    def html(self, template: str, **values: Any) -> str:
        """*template*, filled in; whatever is in *values* is text."""
        return self._templates.get_template(template).render(**values)


@dataclass
class Visit:
    """A request, as views have it."""

    portal: Portal
    method: str
    path: str
    parts: Mapping[str, Any]
    """Of the path, by name."""

    query: Mapping[str, list[str]]
    form: Mapping[str, list[str]]
    json: Any
    cookie: str
    """Of this browser; another one after somebody signed in or out."""

    source: bytes
    """The prefix it comes from."""

    now: float
    """Seconds since 1970."""

    session: Session | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_new: bool = False
    """Whether the cookie has to be set."""

    @property
    def user(self) -> User:
        """Who is signed in; SignInFirst."""
        if self.session is None:
            raise SignInFirst
        return self.session.user

    def need_proof(self) -> Session:
        """ProveFirst if what is to be done wants passkey or password to have been shown just now; SignInFirst."""
        if self.session is None:
            raise SignInFirst
        if self.now - self.session.proved > PROVED_SECONDS:
            raise ProveFirst
        return self.session

    def field(self, name: str) -> str:
        """The first value of a form's field, or what a program sent; empty if there is none."""
        if isinstance(self.json, dict):
            value = self.json.get(name, "")
            return value if isinstance(value, str) else ""
        return self.form.get(name, [""])[0]

    def fields(self, name: str) -> list[str]:
        """All its values."""
        return self.form.get(name, [])

    def asked(self, name: str) -> str:
        """The first value in the query of the address."""
        return self.query.get(name, [""])[0]

    def new_cookie(self) -> str:
        """Another one for this browser, so that nobody who knew the old one knows this."""
        self.cookie, self.is_new = secrets.token_urlsafe(32), True
        return self.cookie

    def count_mail(self, email: str) -> None:
        """One more mail that this visitor brings about, to *email*; TooOften."""
        rates = self.portal.rates
        rates.check("mails_by_source", self.source)
        rates.check("mails_to_address", email.lower())
        rates.take("mails")
        rates.take("mails_by_source", self.source)
        rates.take("mails_to_address", email.lower())

    def tell(self, email: str, what: str) -> None:
        """Mail that *what* happened to the account."""
        self.mail([email], letters.changed(self.portal.config, what), about=what)

    def mail(self, emails: Sequence[str], letter: tuple[str, str], *, about: str) -> None:
        """*letter* to each, whether mails are wanted or not; as far as any can be sent."""
        if hindered := self.portal.mails.put_what_can_be(emails, letter, self.now):
            self.portal.unsent.met(hindered, about=about)
        else:
            self.portal.unsent.over()

    def page(self, template: str, status: HTTPStatus = HTTPStatus.OK, /, **values: Any) -> Response:
        """A page."""
        values.setdefault("error", None)
        values.setdefault("said", "")
        user = self.session.user if self.session else None
        text = self.portal.html(
            template, user=user, csrf=self.portal.csrf(self.cookie), now=self.now, path=self.path, **values
        )
        return HTMLResponse(text, status)

    def again(self, template: str, error: NotAccepted, /, **values: Any) -> Response:
        """The page with the form, and what was wrong with it."""
        return self.page(template, HTTPStatus.UNPROCESSABLE_ENTITY, error=error, **values)

    def on(self, path: str) -> Response:
        """To another page, after something was done."""
        return RedirectResponse(path, HTTPStatus.SEE_OTHER)


View = Callable[[Visit], Response]
Endpoint = Callable[[Request], Awaitable[Response]]


def local(path: str) -> str:
    """*path* if it is one of ours, for going on there; else the list of servers."""
    return path if re.fullmatch(r"/[a-z0-9][a-z0-9/-]*", path) else "/servers"


def page(portal: Portal, view: View) -> Endpoint:
    """The endpoint of a view for browsers."""

    async def endpoint(request: Request) -> Response:
        try:
            visit = await _visit(portal, request)
        except (NotAccepted, ValueError):
            return _plain(HTTPStatus.BAD_REQUEST)
        except ClientDisconnect:
            return _plain(HTTPStatus.BAD_REQUEST)
        except TooOften as error:
            return _plain(HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": str(error.seconds)})
        response = await run_in_threadpool(_answer, visit, view)
        if visit.is_new:
            response.set_cookie(
                portal.cookie_name,
                visit.cookie,
                max_age=int(SESSION_LONGEST_SECONDS),
                secure=portal.config.is_https,
                httponly=True,
                samesite="lax",
            )
        return response

    return endpoint


async def _visit(portal: Portal, request: Request) -> Visit:
    source = prefix_of(request.client.host) if request.client else b""
    portal.rates.take("request_by_source", source)
    form: dict[str, list[str]] = {}
    document = None
    if request.method == "POST":
        body = await request.body()
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            document = json_text.parse(body)
        elif kind == "application/x-www-form-urlencoded":
            form = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
        elif body:
            raise NotAccepted("", "that is no form")
    cookie = request.cookies.get(portal.cookie_name, "")
    visit = Visit(
        portal,
        "GET" if request.method == "HEAD" else request.method,  # the server leaves its body out (RFC 9110 §9.3.2)
        request.url.path,
        request.path_params,
        parse_qs(request.url.query, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="replace"),
        form,
        document,
        cookie,
        source,
        portal.now(),
        headers=request.headers,
    )
    if not re.fullmatch(r"[A-Za-z0-9_-]{43}", cookie):
        visit.new_cookie()
    return visit


def _answer(visit: Visit, view: View) -> Response:
    portal = visit.portal
    try:
        if not visit.is_new:
            visit.session = portal.accounts.session(visit.cookie, visit.now)
        if visit.method == "POST":
            _refuse_forged(visit)
            if visit.session is not None:
                portal.rates.take("change_of_account", visit.session.user.id)
        response = view(visit)
        portal.can_read(RegisterUnusable)
        return response
    except SignInFirst:
        return _sent_on(visit, "/sign-in", "please sign in first", HTTPStatus.UNAUTHORIZED)
    except ProveFirst:
        return _sent_on(visit, "/prove", "please show your passkey or password again", HTTPStatus.FORBIDDEN)
    except ForgedRequest:
        return _fault(visit, HTTPStatus.FORBIDDEN, "This form is too old, or came from elsewhere. Please try again.")
    except NotFound as error:
        return _fault(visit, HTTPStatus.NOT_FOUND, str(error))
    except NotAccepted as error:
        return _fault(visit, HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
    except TooOften as error:
        response = _fault(visit, HTTPStatus.TOO_MANY_REQUESTS, str(error))
        response.headers["Retry-After"] = str(error.seconds)
        return response
    except Busy as error:
        return _fault(visit, HTTPStatus.SERVICE_UNAVAILABLE, str(error))
    except (RegisterUnusable, ObservationsUnusable) as error:
        portal.cannot_read(error)
        return _plain(HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "60"})
    except Exception as error:
        # Whoever asks next shall be answered; the person who asked sees that it is our fault.
        portal.failing_pages.raised(error, path=visit.path)
        return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)


def _refuse_forged(visit: Visit) -> None:
    origin = visit.headers.get("origin", visit.portal.config.url)
    site = visit.headers.get("sec-fetch-site", "same-origin")
    given = visit.headers.get("x-csrf", "") if visit.json is not None else visit.field("csrf")
    # A browser that has no cookie of ours yet has no form of ours either.
    if (
        visit.is_new
        or origin != visit.portal.config.url
        or site not in ("same-origin", "none")
        or not hmac.compare_digest(given.encode(), visit.portal.csrf(visit.cookie).encode())
    ):
        raise ForgedRequest


def _sent_on(visit: Visit, path: str, text: str, status: HTTPStatus) -> Response:
    if visit.json is not None:
        return JSONResponse({"error": text}, status)
    back = f"?next={quote(visit.path)}" if visit.method == "GET" and local(visit.path) == visit.path else ""
    return visit.on(path + back)


def _fault(visit: Visit, status: HTTPStatus, text: str) -> Response:
    if visit.json is not None:
        return JSONResponse({"error": text}, status)
    return visit.page("fault.html", status, text=text, phrase=status.phrase)


def _plain(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Response:
    return Response(f"{status.value} {status.phrase}\n", status, headers=headers, media_type="text/plain")


def when(seconds: float | None) -> str:
    """A moment, for people: UTC, to the second."""
    return "never" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
