"""Pages for getting in: signing up, the links of mails, signing in and out, showing who one is again."""

import json
from http import HTTPStatus

from starlette.responses import JSONResponse, Response

from rootsrv.localroot.servers import NotAccepted, NotFound
from rootsrv.portal import letters, passwords
from rootsrv.portal.accounts import User, checked_email, handle_of
from rootsrv.portal.links import Link
from rootsrv.portal.visits import Visit, local, when
from rootsrv.process import log

# Whether an address has an account is told to whoever reads its mail, and to nobody else: the page says the same in
# both cases, and a wrong password takes as long as one for nobody.
_LOOK = "If this address can be used, a mail is on its way to it. Its link is good for {hours}."


def sign_up(visit: Visit) -> Response:
    """An address is given; a mail goes there."""
    portal = visit.portal
    if portal.config.sign_up == "closed" or not portal.mails.can_send:
        return visit.page("closed.html")
    if visit.method == "GET":
        return visit.page("sign_up.html", email="")
    try:
        email = checked_email(visit.field("email"))
        visit.count_mail(email)
        known = portal.accounts.by_email(email)
        if known is None:
            link = portal.accounts.links.new("begin", email, None, visit.now)
            portal.mails.put(email, *letters.begin(portal.config, link), visit.now)
        elif not known.suspended:
            portal.mails.put(email, *letters.is_known(portal.config), visit.now)
        portal.happened.add("sign-ups", "asked")
    except NotAccepted as error:
        return visit.again("sign_up.html", error, email=visit.field("email"))
    return visit.page("sent.html", text=_LOOK.format(hours="a day"))


def recover(visit: Visit) -> Response:
    """Who cannot sign in any more gets a link."""
    portal = visit.portal
    if visit.method == "GET":
        return visit.page("recover.html", email="", can_send=portal.mails.can_send)
    try:
        email = checked_email(visit.field("email"))
        visit.count_mail(email)
        known = portal.accounts.by_email(email)
        if known is not None and not known.suspended:
            link = portal.accounts.links.new("recover", known.email, known.id, visit.now)
            portal.mails.put(known.email, *letters.recover(portal.config, link), visit.now)
        elif known is None and (again := portal.accounts.links.again(email, visit.now)) is not None:
            # Who has it changed the address.
            portal.mails.put(email, *letters.address_changed(portal.config, again[0], when(again[1])), visit.now)
    except NotAccepted as error:
        return visit.again("recover.html", error, email=visit.field("email"), can_send=portal.mails.can_send)
    return visit.page("sent.html", text=_LOOK.format(hours="an hour"))


# ── the link of a mail ──


def link(visit: Visit) -> Response:
    """What the link permits: opening it changes nothing, so that a mail server that looks at it uses nothing up."""
    portal, text = visit.portal, str(visit.parts["link"])
    found = _link(visit, text)
    values = {"link": text, "purpose": found.purpose, "email": found.email}
    if visit.method == "GET":
        return visit.page("link.html", **values)
    if found.purpose == "email":
        _change_address(visit, found, text)
        return visit.page("done.html", text=f"{found.email} is the address of your account now.", on="/account")
    try:
        password = visit.field("password")
        passwords.check(password, found.email)
        if password != visit.field("again"):
            raise NotAccepted("again", "the two are not the same")
        kept = portal.passwords.hash(password)
    except NotAccepted as error:
        return visit.again("link.html", error, **values)
    former = _address(visit, found)
    with portal.accounts.register.writing():
        _, user = portal.accounts.use_link(text, visit.now, portal.config.key_grace_hours * 3600)
        portal.accounts.set_password(user.id, kept)
    return _begun(visit, found, user, former)


def _change_address(visit: Visit, found: Link, text: str) -> None:
    """Whose address it was is told, or it does not become another: by that mail they have the account back."""
    portal = visit.portal
    before = portal.accounts.user(found.user or 0)
    is_another = before.email.lower() != found.email.lower()
    if is_another:
        visit.count_mail(before.email)
    with portal.accounts.register.writing():
        portal.accounts.use_link(text, visit.now, portal.config.key_grace_hours * 3600)
        if is_another:
            undo = portal.accounts.links.new("undo", before.email, before.id, visit.now)
            until = when(portal.accounts.links.find(undo, visit.now).ends)
            portal.mails.put(before.email, *letters.address_changed(portal.config, undo, until), visit.now)
    log.event("address of account changed", user=before.id)


def link_passkey_options(visit: Visit) -> Response:
    """For a passkey in place of a password."""
    portal, text = visit.portal, str(visit.parts["link"])
    found = _link(visit, text)
    # An account that is recovered keeps no passkey: one for the same authenticator takes the place of what it had.
    handle = handle_of(text) if found.user is None else portal.accounts.user(found.user).handle
    return _json_text(portal.passkeys.creation(handle, found.email, [], visit.cookie, visit.now))


def link_passkey(visit: Visit) -> Response:
    """The passkey that was made."""
    portal, text = visit.portal, str(visit.parts["link"])
    found = _link(visit, text)
    if found.purpose == "email":
        raise NotFound("this link is for something else")
    name = visit.json.get("name", "") if isinstance(visit.json, dict) else ""
    passkey = portal.passkeys.created(_credential(visit), found.user or 0, str(name), visit.cookie, visit.now)
    former = _address(visit, found)
    with portal.accounts.register.writing():
        _, user = portal.accounts.use_link(text, visit.now, portal.config.key_grace_hours * 3600)
        portal.accounts.add_passkey(passkey.of(user.id))
    _begun(visit, found, user, former)
    return JSONResponse({"next": "/servers"})


def _link(visit: Visit, text: str) -> Link:
    visit.portal.rates.check("link_by_source", visit.source)
    try:
        return visit.portal.accounts.links.find(text, visit.now)
    except NotFound:
        visit.portal.rates.take("link_by_source", visit.source)
        raise


def _address(visit: Visit, found: Link) -> str:
    """That of the account for which the link is; empty if there is none yet."""
    return visit.portal.accounts.user(found.user).email if found.user is not None else ""


def _begun(visit: Visit, found: Link, user: User, former: str) -> Response:
    """*former*: the address before the link was used."""
    if found.purpose == "begin":
        visit.portal.happened.add("sign-ups", "begun")
    else:
        servers = visit.portal.servers.of_user(user.id)
        keys = [f"{key.name} ({each.name})" for each in servers for key in each.keys if key.ends is not None]
        until = when(visit.now + visit.portal.config.key_grace_hours * 3600)
        visit.mail([user.email], letters.taken_back(visit.portal.config, keys, until), about="account taken back")
    if found.purpose == "undo" and former.lower() != user.email.lower():
        visit.mail([former], letters.put_back(visit.portal.config), about="address put back")
    log.event(_BEGUN.get(found.purpose, ""), user=user.id)
    return _signed_in(visit, user, "/servers")


_BEGUN = {"begin": "account begun", "recover": "account recovered", "undo": "account recovered, address put back"}


# ── signing in ──


def sign_in(visit: Visit) -> Response:
    """By password; passkeys.js does it by passkey."""
    then = local(visit.field("next") or visit.asked("next") or "/servers")
    if visit.method == "GET":
        return visit.page("sign_in.html", email="", next=then)
    try:
        user = _by_password(visit, visit.field("email").strip(), visit.field("password"))
    except NotAccepted as error:
        return visit.again("sign_in.html", error, email=visit.field("email")[:254], next=then)
    return _signed_in(visit, user, then)


def passkey_options(visit: Visit) -> Response:
    """For showing a passkey."""
    return _json_text(visit.portal.passkeys.request(visit.cookie, visit.now))


def sign_in_passkey(visit: Visit) -> Response:
    """The passkey that was shown."""
    user = _by_passkey(visit)
    then = local(visit.field("next") or "/servers")
    _signed_in(visit, user, then)
    return JSONResponse({"next": then})


def sign_out(visit: Visit) -> Response:
    """This browser."""
    if visit.session is not None:
        visit.portal.accounts.sign_out(visit.session)
        visit.session = None
    visit.new_cookie()
    return visit.on("/")


def prove(visit: Visit) -> Response:
    """Passkey or password again, before something that is hard to undo."""
    user = visit.user
    then = local(visit.field("next") or visit.asked("next") or "/account")
    if visit.method == "GET":
        return visit.page("prove.html", next=then, passkeys=visit.portal.accounts.passkeys(user.id))
    try:
        _by_password(visit, user.email, visit.field("password"))
    except NotAccepted as error:
        return visit.again("prove.html", error, next=then, passkeys=visit.portal.accounts.passkeys(user.id))
    return _proved(visit, then)


def prove_passkey(visit: Visit) -> Response:
    """The passkey that was shown."""
    if _by_passkey(visit).id != visit.user.id:
        raise NotAccepted("passkey", "this passkey belongs to another account")
    then = local(visit.field("next") or "/account")
    _proved(visit, then)
    return JSONResponse({"next": then})


def _proved(visit: Visit, then: str) -> Response:
    if visit.session is not None:
        visit.portal.accounts.proved(visit.session, visit.now)
    return visit.on(then)


def _by_password(visit: Visit, email: str, password: str) -> User:
    """NotAccepted; TooOften, so that guessing takes longer than anybody has."""
    portal = visit.portal
    subject = email.lower()[:254]
    portal.rates.take("password_by_source", visit.source)
    portal.rates.take("password_of_account_by_source", (subject, visit.source))
    portal.rates.take("password_of_account", subject)
    portal.rates.take("password")
    user = portal.accounts.by_email(email)
    kept = portal.accounts.password_of(user.id) if user else ""
    if not portal.passwords.verify(kept, password) or user is None:
        portal.happened.add("sign-ins", "password", "refused")
        log.security("sign-in refused", source=visit.source.hex())
        raise NotAccepted("password", "address and password do not belong together")
    if user.suspended:
        portal.happened.add("sign-ins", "password", "refused")
        raise NotAccepted("password", f"this account is suspended: {user.suspended}")
    portal.happened.add("sign-ins", "password", "ok")
    return user


def _by_passkey(visit: Visit) -> User:
    portal = visit.portal
    portal.rates.take("passkey_by_source", visit.source)
    try:
        user = portal.passkeys.shown(_credential(visit), visit.cookie, visit.now)
    except NotAccepted:
        portal.happened.add("sign-ins", "passkey", "refused")
        log.security("passkey refused", source=visit.source.hex())
        raise
    portal.happened.add("sign-ins", "passkey", "ok")
    return user


def _credential(visit: Visit) -> dict[str, object]:
    credential = visit.json.get("credential") if isinstance(visit.json, dict) else None
    if not isinstance(credential, dict):
        raise NotAccepted("passkey", "there is no passkey in this")
    return credential


def _signed_in(visit: Visit, user: User, then: str) -> Response:
    visit.portal.accounts.sign_in(user.id, visit.now, visit.new_cookie())
    return visit.on(then)


def _json_text(text: str) -> Response:
    return JSONResponse(json.loads(text), HTTPStatus.OK)
