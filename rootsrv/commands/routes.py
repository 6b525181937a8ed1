"""The operator's commands to the controller: `rootsrv drain`, `undrain`, `withdraw`, and its part of `status`."""

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

from rootsrv.commands.asking import add_config, failed
from rootsrv.commands.printing import complain, say
from rootsrv.config import file as config_file
from rootsrv.control.client import NoAnswer, NotDone, ask

_WAIT_POLL_SECONDS = 0.2
_SILENT_SECONDS = 60.0
_TOKEN_SECONDS = 3600.0


def add_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    """The options of `rootsrv <verb>`."""
    add_config(parser, "print the controller's status as JSON")
    if verb == "status":
        return
    parser.add_argument("--family", choices=("4", "6", "both"), default="both", help="IP version (default both)")
    parser.add_argument("--reason", default="", help="what the log and status will say")
    if verb in {"drain", "withdraw"}:
        parser.add_argument("--force", action="store_true", help="in a mesh: without a token")
    if verb == "drain":
        parser.add_argument(
            "--wait",
            action="store_true",
            help="until BIRD confirms that the prefix is withdrawn; in a mesh also for a token, for an hour",
        )
    if verb == "withdraw":
        parser.add_argument("--now", action="store_true", required=True, help="yes, at once and without draining")


def run(arguments: argparse.Namespace) -> int:
    """`rootsrv drain | undrain | withdraw --now`, and the controller's own status; returns the exit status."""
    loaded = config_file.load(arguments.config)
    if loaded.anycast is None:
        complain(f"{arguments.config}: has no [anycast] section: nothing is announced")
        return 1
    path = Path(loaded.state.runtime_directory) / "advertise.sock"
    request: dict[str, Any] = {"command": arguments.verb}
    versions = loaded.anycast.versions()
    if arguments.verb != "status":
        versions = tuple(each for each in versions if arguments.family in {"both", str(each)})
        request |= {"reason": arguments.reason, "versions": list(versions), "force": getattr(arguments, "force", False)}
    try:
        status = asyncio.run(ask(path, request, timeout=5.0))
        if getattr(arguments, "wait", False):
            longest = loaded.anycast.drain_seconds + 30 + (0 if loaded.mesh is None else _TOKEN_SECONDS)
            status = asyncio.run(until_withdrawn(path, versions, longest))
    except NotDone as error:
        return failed(arguments, error)
    except NoAnswer as error:
        return failed(arguments, f"the controller cannot be asked: {error}")
    if arguments.json:
        print(json.dumps(status, indent=2))
    else:
        render(status)
    return 0


async def until_withdrawn(path: Path, versions: tuple[int, ...], seconds: float) -> dict[str, Any]:
    """The controller's status once *versions* are withdrawn and BIRD confirms it; NoAnswer after *seconds*.

    Also NotDone, and NoAnswer from a controller that is silent for _SILENT_SECONDS: one that is started again goes on.
    """
    deadline = time.monotonic() + seconds
    heard_at = time.monotonic()
    while time.monotonic() < deadline:
        try:
            status = await ask(path, {"command": "status"}, timeout=5.0)
        except NoAnswer as error:
            if isinstance(error, NotDone) or time.monotonic() - heard_at > _SILENT_SECONDS:
                raise
            await asyncio.sleep(_WAIT_POLL_SECONDS)
            continue
        heard_at = time.monotonic()
        families = [each for each in status["families"] if each["ip_version"] in versions]
        if all(each["confirmed"] and not each["announced"] for each in families):
            return status
        await asyncio.sleep(_WAIT_POLL_SECONDS)
    raise NoAnswer(f"not withdrawn, or not confirmed, after {seconds:.0f} s; see `rootsrv status`")


def render(status: dict[str, Any]) -> None:
    """Print what the controller says as a person wants to read it."""
    floor = status.get("floor")
    if floor is not None:
        say(f"token: {'held' if floor['token'] else floor['why']}")
        for each in floor["holders"]:
            say(f"    {each['slot']} is held by {each['member']}: {each['reason']}")
    for each in status["families"]:
        confirmed = "BIRD confirms" if each["confirmed"] else "NOT confirmed"
        say(f"{each['prefix']}: {each['state']} since {each['since']}, route {each['route']}")
        say(f"    why    {each['reason']}")
        say(f"    BIRD   {confirmed}: {each['bird']}")
        say(f"    next   {each['next']}")
        if each["fault"]:
            say(f"    fault  {each['fault']}")
        for alarm in each["alarms"]:
            say(f"    alarm  {alarm}")
