"""Passkeys (W3C WebAuthn): registered and shown, each over a challenge that is good once, for one browser."""

import secrets
import threading
from collections import OrderedDict
from typing import Any

import webauthn
from webauthn.helpers import exceptions, structs

from rootsrv.localroot.servers import NotAccepted
from rootsrv.portal.accounts import Accounts, Passkey, User

CHALLENGE_SECONDS = 300.0
MAX_CHALLENGES = 10_000
"""That wait at a time: whoever waits longest loses."""

_REQUIRED = structs.UserVerificationRequirement.REQUIRED


class Passkeys:
    """The server's side of both ceremonies."""

    def __init__(self, accounts: Accounts, host: str, origin: str, title: str) -> None:
        """*host*: whom passkeys belong to (the RP ID); *origin*: the page's, as browsers name it."""
        self._accounts = accounts
        self._host, self._origin, self._title = host, origin, title
        self._waiting: OrderedDict[tuple[str, str], tuple[bytes, float]] = OrderedDict()
        self._lock = threading.Lock()

    # ── a new one ──

    def creation(self, handle: bytes, email: str, known: list[Passkey], cookie: str, now: float) -> str:
        """What `navigator.credentials.create` takes (JSON), for the browser that shows *cookie*."""
        options = webauthn.generate_registration_options(
            rp_id=self._host,
            rp_name=self._title,
            user_id=handle,
            user_name=email,
            challenge=self._challenge("create", cookie, now),
            exclude_credentials=[structs.PublicKeyCredentialDescriptor(id=each.id) for each in known],
            authenticator_selection=structs.AuthenticatorSelectionCriteria(
                resident_key=structs.ResidentKeyRequirement.REQUIRED, user_verification=_REQUIRED
            ),
        )
        return webauthn.options_to_json(options)

    def created(self, credential: dict[str, Any], user: int, name: str, cookie: str, now: float) -> Passkey:
        """The new passkey, for `Accounts.add_passkey`.  NotAccepted."""
        challenge = self._taken("create", cookie, now)
        name = " ".join(name.split())[:64]
        if not name.isprintable():
            raise NotAccepted("passkey", "its name is not printable")
        try:
            verified = webauthn.verify_registration_response(
                credential=credential,
                expected_challenge=challenge,
                expected_rp_id=self._host,
                expected_origin=self._origin,
                require_user_verification=True,
            )
        except (exceptions.WebAuthnException, ValueError, TypeError, KeyError, AttributeError) as error:
            raise NotAccepted("passkey", f"this passkey cannot be taken: {_short(error)}") from error
        return Passkey(
            verified.credential_id,
            user,
            verified.credential_public_key,
            verified.sign_count,
            name or "passkey",
            now,
            None,
        )

    # ── one that is shown ──

    def request(self, cookie: str, now: float) -> str:
        """What `navigator.credentials.get` takes (JSON): any passkey of this host."""
        options = webauthn.generate_authentication_options(
            rp_id=self._host, challenge=self._challenge("get", cookie, now), user_verification=_REQUIRED
        )
        return webauthn.options_to_json(options)

    def shown(self, credential: dict[str, Any], cookie: str, now: float) -> User:
        """Whose passkey was shown.  NotAccepted."""
        challenge = self._taken("get", cookie, now)
        refused = NotAccepted("passkey", "this passkey is not known here")
        try:
            raw = credential["rawId"]
            passkey = self._accounts.passkey(webauthn.base64url_to_bytes(raw))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise refused from error
        if passkey is None:
            raise refused
        try:
            verified = webauthn.verify_authentication_response(
                credential=credential,
                expected_challenge=challenge,
                expected_rp_id=self._host,
                expected_origin=self._origin,
                credential_public_key=passkey.public_key,
                credential_current_sign_count=passkey.uses,
                require_user_verification=True,
            )
        except (exceptions.WebAuthnException, ValueError, TypeError, KeyError, AttributeError) as error:
            raise NotAccepted("passkey", f"this passkey is not accepted: {_short(error)}") from error
        self._accounts.passkey_used(passkey.id, verified.new_sign_count, now)
        user = self._accounts.user(passkey.user)
        if user.suspended:
            raise NotAccepted("passkey", f"this account is suspended: {user.suspended}")
        return user

    # ── challenges ──

    def _challenge(self, what: str, cookie: str, now: float) -> bytes:
        challenge = secrets.token_bytes(32)
        with self._lock:
            self._waiting[what, cookie] = challenge, now + CHALLENGE_SECONDS
            self._waiting.move_to_end((what, cookie))
            if len(self._waiting) > MAX_CHALLENGES:
                self._waiting.popitem(last=False)
        return challenge

    def _taken(self, what: str, cookie: str, now: float) -> bytes:
        with self._lock:
            challenge, ends = self._waiting.pop((what, cookie), (b"", 0.0))
        if not challenge or now > ends:
            raise NotAccepted("passkey", "that took too long: please try again")
        return challenge


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
