"""Pages of one's own account: address, passkeys, password, mails, tokens, sessions, export, deletion."""

import base64
import binascii
import json

from starlette.responses import JSONResponse, Response

from rootsrv.localroot.servers import NotAccepted, NotFound
from rootsrv.portal import letters, passwords
from rootsrv.portal.accounts import MAILS, checked_email
from rootsrv.portal.describing import contributed, described
from rootsrv.portal.tokens import SCOPES
from rootsrv.portal.visits import Visit
from rootsrv.process import log


def account(visit: Visit, error: NotAccepted | None = None, said: str = "", token: str = "") -> Response:
    """All of it on one page."""
    portal, user = visit.portal, visit.user
    values = {
        "passkeys": [
            (base64.urlsafe_b64encode(each.id).decode().rstrip("="), each) for each in portal.accounts.passkeys(user.id)
        ],
        "sessions": portal.accounts.sessions_of(user.id),
        "tokens": portal.tokens.of_user(user.id),
        "token": token,
        "scopes": SCOPES,
        "kinds": MAILS,
        "said": said,
    }
    return visit.again("account.html", error, **values) if error else visit.page("account.html", **values)


def name(visit: Visit) -> Response:
    """How mails address one."""
    try:
        visit.portal.accounts.set_name(visit.user.id, visit.field("name"))
    except NotAccepted as error:
        return account(visit, error)
    return visit.on("/account")


def email(visit: Visit) -> Response:
    """Another address: it is one's own once the link in a mail to it was opened."""
    portal, user = visit.portal, visit.need_proof().user
    try:
        wanted = checked_email(visit.field("email"))
        visit.count_mail(wanted)
        link = portal.accounts.links.new("email", wanted, user.id, visit.now)
        portal.mails.put(wanted, *letters.new_address(portal.config, link), visit.now)
    except NotAccepted as error:
        return account(visit, error)
    return account(visit, said="A mail is on its way to the new address. Until its link is opened nothing changes.")


def password(visit: Visit) -> Response:
    """A new password, or none any more."""
    session = visit.need_proof()
    portal, user = visit.portal, session.user
    try:
        given = visit.field("password")
        if visit.field("remove"):
            kept = ""
        else:
            passwords.check(given, user.email)
            kept = portal.passwords.hash(given)
        portal.accounts.set_password(user.id, kept)
    except NotAccepted as error:
        return account(visit, error)
    portal.accounts.sign_out_others(session)
    visit.tell(user.email, "the password was removed" if not kept else "the password was changed")
    return visit.on("/account")


def mails(visit: Visit) -> Response:
    """Which troubles one wants to be told of."""
    visit.portal.accounts.set_mails(visit.user.id, visit.fields("mails"))
    return visit.on("/account")


def passkey_options(visit: Visit) -> Response:
    """For a further passkey."""
    portal, user = visit.portal, visit.need_proof().user
    known = portal.accounts.passkeys(user.id)
    return JSONResponse(json.loads(portal.passkeys.creation(user.handle, user.email, known, visit.cookie, visit.now)))


def passkey(visit: Visit) -> Response:
    """The passkey that was made."""
    portal, user = visit.portal, visit.need_proof().user
    credential = visit.json.get("credential") if isinstance(visit.json, dict) else None
    if not isinstance(credential, dict):
        raise NotAccepted("passkey", "there is no passkey in this")
    made = portal.passkeys.created(credential, user.id, visit.field("name"), visit.cookie, visit.now)
    portal.accounts.add_passkey(made)
    visit.tell(user.email, "a passkey was added")
    return JSONResponse({"next": "/account"})


def delete_passkey(visit: Visit) -> Response:
    """One of them."""
    session = visit.need_proof()
    user = session.user
    try:
        given = visit.field("passkey")
        credential = base64.urlsafe_b64decode(given + "=" * (-len(given) % 4))
        visit.portal.accounts.delete_passkey(user.id, credential)
    except (binascii.Error, ValueError):
        raise NotFound("there is no such passkey") from None
    except NotAccepted as error:
        return account(visit, error)
    visit.portal.accounts.sign_out_others(session)  # who has it may be signed in with it
    visit.tell(user.email, "a passkey was deleted")
    return visit.on("/account")


def token(visit: Visit) -> Response:
    """A token of the API, shown this once."""
    user = visit.need_proof().user
    days = visit.field("days")
    try:
        if not days.isascii() or not days.isdigit() or len(days) > 4:
            raise NotAccepted("days", "1 to 366 days")
        made = visit.portal.tokens.add(user.id, visit.field("name"), visit.fields("scopes"), int(days), visit.now)
    except NotAccepted as error:
        error.field = f"token_{error.field}"
        return account(visit, error)
    visit.tell(user.email, "a token for programs was made")
    return account(visit, token=made)


def delete_token(visit: Visit) -> Response:
    """One of them."""
    number = visit.field("token")
    if not number.isascii() or not number.isdigit() or len(number) > 19:
        raise NotFound("there is no such token")
    visit.portal.tokens.delete(visit.user.id, int(number))
    return visit.on("/account")


def sign_out_others(visit: Visit) -> Response:
    """All browsers but this one."""
    if visit.session is not None:
        visit.portal.accounts.sign_out_others(visit.session)
    return visit.on("/account") if visit.user else visit.on("/")


def export(visit: Visit) -> Response:
    """All that is kept of the account but its secrets, as a file."""
    portal, user = visit.portal, visit.user
    document = {
        "account": portal.accounts.export(user.id, visit.now),
        "tokens": [
            {"name": each.name, "scopes": sorted(each.scopes), "created": each.created, "ends": each.ends}
            for each in portal.tokens.of_user(user.id)
        ],
        "servers": [
            described(portal, each, visit.now) | {"counts": contributed(portal.contributions.of_server(each.id))}
            for each in portal.servers.of_user(user.id)
        ],
    }
    text = json.dumps(document, indent=2, ensure_ascii=False)
    headers = {"Content-Disposition": 'attachment; filename="account.json"'}
    return Response(text, media_type="application/json", headers=headers)


def delete(visit: Visit) -> Response:
    """The account, with all servers and keys."""
    portal, user = visit.portal, visit.need_proof().user
    if visit.method == "GET":
        return visit.page("delete_account.html", servers=portal.servers.of_user(user.id))
    if visit.field("sure") != "yes":
        missing = NotAccepted("sure", "please say that you are sure")
        return visit.again("delete_account.html", missing, servers=portal.servers.of_user(user.id))
    told = portal.accounts.delete(user.id, visit.now)
    log.event("account deleted", user=user.id)
    visit.mail(told, letters.deleted(portal.config), about="account deleted")
    visit.session = None
    visit.new_cookie()
    return visit.page("done.html", text="Your account is deleted, with its servers and keys. A mail says so.", on="/")
