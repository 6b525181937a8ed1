"""Limits, shed rules and who is exempt: what kernel and workers are told; kept by the role *serve*."""
# Rules survive the role's restart, not the machine's: the file says of which boot it is.  Kernel and workers stop
# honouring a rule by themselves when its time is over; here it is forgotten.

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rootsrv.admission.blocks import MAX_SECONDS
from rootsrv.admission.everything import is_everything
from rootsrv.admission.limits import Cells, LimitSettings, Occupancy
from rootsrv.admission.samples import Flood
from rootsrv.admission.shed import ACTIONS, MAX_RULES, Action, Match, Rule, ShedRefused
from rootsrv.config.limits import LimitsConfig
from rootsrv.control.protocol import Command, Commands, Nothing, Order
from rootsrv.page import counts
from rootsrv.page.layout import Page, boot_words
from rootsrv.process import json_text, log, whole_file

NEARLY_ALL = 0.9
"""A rule for more than this share of the last queries has to be asked for twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shed:
    """A rule, and who wanted it."""

    rule: Rule
    reason: str
    who: str
    counted_before: tuple[int, int, int, int]
    """When it was made: hits in its place, those with a good cookie, queries judged, those with a good cookie."""


class Policy:
    """What is in force."""

    def __init__(
        self,
        config: LimitsConfig,
        *,
        service_addresses: Sequence[str],
        page: Page,
        path: Path,
        cells: Cells | None = None,
        now_ns: Callable[[], int] | None = None,
    ) -> None:
        """*path*: where rules are kept, in the runtime directory; *cells*: None where there is no memory for them."""
        self._config = config
        self._own = tuple(service_addresses)
        self._page = page
        self._path = path
        self._now_ns = now_ns or (lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        self._key = os.urandom(16)
        self._cells = cells
        self._occupancy = None if cells is None else Occupancy(cells)
        self._unkept = ""
        self.flood = Flood()
        self.users: list[Callable[[dict[str, Any]], None]] = []
        """Called with `to_document()` whenever it has changed."""

        self.count: Callable[[], None] = lambda: None
        """Called before counts are looked at: what the kernel has counted stands in the page up to a second later, and
        a rule would seem to hit less than it does."""

        now = self._now_ns()
        latest = now + MAX_SECONDS * 10**9  # what is to end later than any rule can is damage, and would never end
        self._sheds = {shed.rule.place: shed for shed in self._read() if now < shed.rule.until_ns <= latest}

    # ── what is told ──

    @property
    def rules(self) -> tuple[Rule, ...]:
        """In force, by place."""
        return tuple(self._sheds[place].rule for place in sorted(self._sheds))

    def settings(self) -> LimitSettings:
        """Of the limits."""
        config = self._config if self._cells is not None else replace(self._config, mode="off")
        falls_back = self._occupancy is not None and self._occupancy.falls_back
        return LimitSettings.of(config, self._key, falls_back=falls_back)

    def to_document(self) -> dict[str, Any]:
        """For workers and the fast path."""
        return {
            "limits": self.settings().to_document(),
            "rules": [rule.to_document() for rule in self.rules],
            "exempt": [*self._own, *self._config.exempt],
            "sample_every": self._config.sample_every,
        }

    def _tell(self) -> None:
        document = self.to_document()
        for use in self.users:
            use(document)

    # ── limits ──

    def reconfigure(self, config: LimitsConfig) -> None:
        """Go on with *config*."""
        if config == self._config:
            return
        if config.mode != "off" and self._cells is None:
            log.alarm("limits stay off", reason="there was no memory for them when the role started")
        self._config = config
        self._tell()
        log.event("limits changed", mode=self.settings().mode)

    def tick(self) -> None:
        """Once a second: end what is over, see how full the cells are, keep what could not be kept."""
        now = self._now_ns()
        ended = [shed for shed in self._sheds.values() if shed.rule.until_ns <= now]
        if ended:
            self.count()
        for shed in ended:
            del self._sheds[shed.rule.place]
            self._log_end(shed, "its time")
        if ended:
            self._keep()
            self._tell()
        elif self._unkept:
            self._keep()
        occupancy = self._occupancy
        if occupancy is None or self._config.mode == "off" or not occupancy.look(now, self.settings()):
            return
        share = f"{occupancy.share:.1%}"
        if occupancy.falls_back:
            log.alarm("limits fall back to dry-run", cells_over=share,
                      reason="too many sources are over their rate to tell them from others")  # fmt: skip
        else:
            log.event("limits are in force again", mode=self._config.mode, cells_over=share)
        self._tell()

    def limits_document(self) -> dict[str, Any]:
        """For `rootsrv top` and metrics."""
        words = counts.total(self._page)
        limited = words[counts.LIMITED : counts.LIMITED + 4]
        return {
            "mode": self._config.mode,
            "in_force": self.settings().mode,
            "falls_back": self._config.mode != "off" and self._occupancy is not None and self._occupancy.falls_back,
            "cells_over": 0.0 if self._occupancy is None else round(self._occupancy.share, 5),
            "judged": words[counts.JUDGED],
            "judged_with_cookie": words[counts.JUDGED + 1],
            "limited": sum(limited[:2]),
            "would_be_limited": sum(limited[2:]),
        }

    # ── shed rules ──

    def shed(
        self, match: Match, action: Action, seconds: int, reason: str, who: str, *, dry: bool = False,
        really: bool = False,
    ) -> Shed:  # fmt: skip
        """A rule from now on for so many seconds; ShedRefused says why there is none."""
        if action not in ACTIONS:
            raise ShedRefused(f"--do {action}: must be one of {', '.join(ACTIONS)}")
        if not reason.strip():
            raise ShedRefused("a rule needs a reason")
        if not 0 < seconds <= MAX_SECONDS:
            raise ShedRefused(f"a rule lasts 1 to {MAX_SECONDS} seconds, got {seconds}")
        if not dry:
            self._refuse_contradiction(match, action)
            if not really:
                self._refuse_nearly_all(match)
        place = self._place_for(match, action, dry=dry)
        self.count()
        rule = Rule(place=place, match=match, action=action, until_ns=self._now_ns() + seconds * 10**9, dry=dry)
        shed = Shed(rule=rule, reason=reason, who=who, counted_before=self._counted(place))
        self._sheds[place] = shed
        self._keep()
        self._tell()
        say = log.event if dry else log.alarm
        say("shed rule made", rule=place, match=match, do=action, dry_run=dry, seconds=seconds, reason=reason, who=who)
        return shed

    def _place_for(self, match: Match, action: Action, *, dry: bool) -> int:
        """The first free place behind every rule that does something else with some of these, or that would be void."""
        if len(self._sheds) == MAX_RULES:
            raise ShedRefused(f"there are {MAX_RULES} rules already")
        inside = [
            other.place
            for other in self.rules
            if not (dry or other.dry) and other.action != action and match.covers(other.match)
        ]
        first = max(inside, default=-1) + 1
        place = next((place for place in range(first, MAX_RULES) if place not in self._sheds), None)
        if place is None:
            raise ShedRefused(
                f"rule {max(inside)} does something else with some of these, and there is no place behind it: end it"
                f" first (rootsrv unshed {max(inside)})"
            )
        return place

    def _refuse_contradiction(self, match: Match, action: Action) -> None:
        for other in self.rules:
            if other.dry:
                continue
            if other.match == match and other.action == action:
                raise ShedRefused(f"rule {other.place} says so already: {match}")
            if other.action != action and other.match.covers(match):
                raise ShedRefused(
                    f"rule {other.place} does {other.action} with all of these ({other.match}): end it first"
                    f" (rootsrv unshed {other.place})"
                )

    def _refuse_nearly_all(self, match: Match) -> None:
        share = 1.0 if is_everything([match]) else self.flood.share_of([match])
        if not self._config.sample_every and share <= NEARLY_ALL:
            raise TooMuch(
                f"{match}: nobody knows how much that is, for limits.sample_every is 0: look with --dry-run, and if"
                " that is what you want, say --really"
            )
        if share > NEARLY_ALL:
            raise TooMuch(f"{match}: is {share:.0%} of all queries; if that is what you want, say --really")
        # Half of all, and then the other half, is all: rules that are in force count, unless they are too much already.
        before = [rule.match for rule in self.rules if not rule.dry]
        if is_everything(before) or self.flood.share_of(before) > NEARLY_ALL:
            return
        together = 1.0 if is_everything([match, *before]) else self.flood.share_of([match, *before])
        if together > NEARLY_ALL:
            raise TooMuch(
                f"{match}: is, together with the rules in force, {together:.0%} of all queries; if that is what you"
                " want, say --really"
            )

    def unshed(self, place: int, who: str) -> None:
        """End a rule; ShedRefused when there is none in that place."""
        shed = self._sheds.pop(place, None)
        if shed is None:
            raise ShedRefused(f"there is no rule {place}")
        self.count()
        self._keep()
        self._tell()
        self._log_end(shed, who)

    def _log_end(self, shed: Shed, by: str) -> None:
        hits, *_ = self._since(shed)
        log.event("shed rule ended", rule=shed.rule.place, match=shed.rule.match, by=by, hits=hits, reason=shed.reason)

    def _counted(self, place: int) -> tuple[int, int, int, int]:
        words = counts.total(self._page)
        rule = counts.RULES + 2 * place
        return words[rule], words[rule + 1], words[counts.JUDGED], words[counts.JUDGED + 1]

    def _since(self, shed: Shed) -> list[int]:
        """Hits, those with a good cookie, queries judged, those with a good cookie, since the rule was made."""
        now = self._counted(shed.rule.place)
        return [max(0, number - before) for number, before in zip(now, shed.counted_before, strict=True)]

    def as_document(self) -> dict[str, Any]:
        """For `rootsrv sheds`."""
        self.count()
        now = self._now_ns()
        rules = []
        for place in sorted(self._sheds):
            shed = self._sheds[place]
            hits, hits_with_cookie, judged, with_cookie = self._since(shed)
            rules.append(
                {
                    "rule": place,
                    "match": str(shed.rule.match),
                    "do": shed.rule.action,
                    "dry_run": shed.rule.dry,
                    "ends_in_seconds": round(max(0, shed.rule.until_ns - now) / 1e9, 1),
                    "reason": shed.reason,
                    "who": shed.who,
                    "queries": judged,
                    "queries_with_cookie": with_cookie,
                    "hits": hits,
                    "hits_with_cookie": hits_with_cookie,
                    "share": round(hits / judged, 4) if judged else None,
                    "share_with_cookie": round(hits_with_cookie / with_cookie, 4) if with_cookie else None,
                }
            )
        return {"rules": rules}

    # ── kept ──

    def _read(self) -> Iterable[Shed]:
        """What the file tells, as far as it is of this boot and can be read."""
        try:
            document = json_text.parse(self._path.read_text(encoding="utf-8"))
            if document["boot"] != list(boot_words()):
                return
            found = list(document["rules"])
        except (OSError, ValueError, TypeError, KeyError):
            return
        for each in found:
            try:
                hits, with_cookie, judged, judged_with_cookie = map(int, each["counted_before"])
                yield Shed(
                    rule=Rule.from_document(each), reason=str(each["reason"]), who=str(each["who"]),
                    counted_before=(hits, with_cookie, judged, judged_with_cookie),
                )  # fmt: skip
            except (ShedRefused, TypeError, KeyError, ValueError, AttributeError):
                continue

    def _keep(self) -> None:
        rules = [
            {**shed.rule.to_document(), "reason": shed.reason, "who": shed.who, "counted_before": shed.counted_before}
            for shed in self._sheds.values()
        ]
        try:
            whole_file.replace(self._path, json.dumps({"boot": boot_words(), "rules": rules}).encode())
        except OSError as error:
            reason = error.strerror or str(error)
            if reason != self._unkept:
                log.alarm("shed rules cannot be kept", file=self._path, reason=reason)
            self._unkept = reason
        else:
            self._unkept = ""

    # ── asked from outside ──

    def commands(self) -> Commands:
        """What the control socket of *serve* does for limits and shed rules."""

        async def shed(order: Order[ShedOrder]) -> Mapping[str, Any]:
            wanted = order.wanted
            made = self.shed(
                Match.parse(wanted.match), wanted.do, wanted.seconds, wanted.reason, str(order.caller),  # type: ignore[arg-type]
                dry=wanted.dry_run, really=wanted.really,
            )  # fmt: skip
            return self.as_document() | {"made": made.rule.place}

        async def unshed(order: Order[UnshedOrder]) -> Mapping[str, Any]:
            self.unshed(order.wanted.rule, str(order.caller))
            return self.as_document()

        async def sheds(_: Order[Nothing]) -> Mapping[str, Any]:
            return self.as_document()

        async def top(_: Order[Nothing]) -> Mapping[str, Any]:
            return {"flood": self.flood.as_document(), "limits": self.limits_document(), **self.as_document()}

        return {
            "shed": Command(shed, ShedOrder),
            "unshed": Command(unshed, UnshedOrder),
            "sheds": Command(sheds, Nothing, changes=False),
            "top": Command(top, Nothing, changes=False),
        }


class TooMuch(ShedRefused):
    """The rule would hit nearly everything; it is made only if that is said twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShedOrder:
    """`shed`: what the operator wants shed."""

    match: tuple[str, ...]
    do: str
    seconds: int
    reason: str
    dry_run: bool = False
    really: bool = False
    """Also if that is nearly everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnshedOrder:
    """`unshed`: which rule is to end."""

    rule: int
