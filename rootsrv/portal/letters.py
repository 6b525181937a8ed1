"""What mails say: subject and text of each, plain."""

from collections.abc import Sequence

from rootsrv.config.portal import PortalConfig


def begin(config: PortalConfig, link: str) -> tuple[str, str]:
    """Somebody gave this address to sign up."""
    return (
        f"Your account at {config.title}",
        f"Somebody, you we hope, gave this address to sign up at {config.url}.\n\n"
        f"To go on, open this within a day:\n\n{config.url}/link/{link}\n\n"
        "If it was not you, do nothing: there is no account, and this address is forgotten in a day.\n",
    )


def is_known(config: PortalConfig) -> tuple[str, str]:
    """Somebody gave this address to sign up, and it has an account."""
    return (
        f"Your account at {config.title}",
        f"Somebody, you perhaps, gave this address to sign up at {config.url}.\n\n"
        f"You have an account already.  To sign in: {config.url}/sign-in\n"
        f"If you cannot sign in any more: {config.url}/recover\n",
    )


def recover(config: PortalConfig, link: str) -> tuple[str, str]:
    """Somebody cannot sign in any more."""
    return (
        f"Sign in at {config.title} again",
        f"Somebody, you we hope, asked for a new way to sign in at {config.url}.\n\n"
        f"To set a new password or passkey, open this within an hour:\n\n{config.url}/link/{link}\n\n"
        "If it was not you, do nothing: everything stays as it is.\n",
    )


def new_address(config: PortalConfig, link: str) -> tuple[str, str]:
    """An account is to have this address."""
    return (
        f"Your new address at {config.title}",
        f"An account at {config.url} is to have this address.\n\n"
        f"If that is yours, open this within a day:\n\n{config.url}/link/{link}\n\nIf not, do nothing.\n\n"
        "For a week after that, whoever reads mail to the address that the account had can undo it, and has the account"
        " then.\n",
    )


def address_changed(config: PortalConfig, link: str, until: str) -> tuple[str, str]:
    """An account has this address no more."""
    return (
        f"The address of your account at {config.title} was changed",
        f"Your account at {config.url} has another e-mail address now.  If that was you, do nothing.\n\n"
        f"If it was not you, open this before {until}:\n\n{config.url}/link/{link}\n\n"
        "There you set a new password or passkey.  The account has this address again then, and all browsers, the"
        " password, passkeys and tokens that it has now end.\n\n"
        "The link is good once, for whoever reads this mailbox: if you leave it to somebody else, delete this mail.\n",
    )


def put_back(config: PortalConfig) -> tuple[str, str]:
    """An account has this address no more, since its change was undone."""
    return (
        f"Your account at {config.title} has another address again",
        f"Your account at {config.url} has the e-mail address again that it had before this one: whoever reads mail"
        " there has opened the link by which that can be done for a week, and has the account now.\n\n"
        f"If that is not right, only who runs the service can help.{_ask(config)}\n",
    )


def changed(config: PortalConfig, what: str) -> tuple[str, str]:
    """Something about the account itself has changed."""
    return (
        f"Your account at {config.title} has changed",
        f"At {config.url} {what}.\n\nIf that was not you, take your account back: {config.url}/recover\n",
    )


def deleted(config: PortalConfig) -> tuple[str, str]:
    """There is no such account any more."""
    return (
        f"Your account at {config.title} was deleted",
        f"The account that you had at {config.url} was deleted, with its servers and their keys: what they sign is"
        " refused from now on.  If that was you, there is nothing left to do.\n\n"
        "If it was not, somebody else could sign in as you.  What was deleted cannot be brought back: sign up again"
        f" with this address ({config.url}/sign-up), add your servers and make new keys.{_ask(config)}\n",
    )


def taken_back(config: PortalConfig, keys: Sequence[str], until: str) -> tuple[str, str]:
    """An account has a new way to sign in, the only one; *keys* of its servers end."""
    what = "a new way to sign in was set by a link that was mailed to you"
    listed = "".join(f"* {each}\n" for each in keys)
    subject, text = changed(config, what)
    if not keys:
        return subject, text
    return subject, (
        f"{text}\nWhoever could sign in as you may have seen or made keys of your servers.  So these end by themselves,"
        f" {until}:\n\n{listed}\nMake new ones before, and put them into your servers' configuration:"
        f" {config.url}/servers\n"
    )


def troubles(config: PortalConfig, server: str, number: int, lines: Sequence[str]) -> tuple[str, str]:
    """What a server's operator should look at."""
    listed = "\n\n".join(f"* {line}" for line in lines)
    return (
        f"{config.title}: your server {server}",
        f"Your server {server} needs a look:\n\n{listed}\n\n"
        f"How it fares now, and what to do: {config.url}/servers/{number}\n\n"
        f"Each of these is mailed once.  Which mails you want: {config.url}/account\n",
    )


def _ask(config: PortalConfig) -> str:
    """Whom, behind the end of a sentence."""
    return f"  Ask: {config.contact}" if config.contact else ""
