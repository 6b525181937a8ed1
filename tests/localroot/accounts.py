"""Accounts that tests need: put into a register as signing up and verifying the address would."""

import secrets

from rootsrv.localroot.register import Register


def add_user(register: Register, email: str, now: float) -> int:
    """A user whose address is verified."""
    with register.writing() as database:
        added = database.execute(
            "INSERT INTO users (email, email_verified, handle, created) VALUES (?, ?, ?, ?)",
            (email, now, secrets.token_bytes(32), now),
        )
    assert added.lastrowid is not None
    return added.lastrowid
