"""What a worker does about limits, shed rules and notes: the last look at UDP responses before they are sent."""
# A response is made as ever, and then judged: what it costs is known only then, and it is what the kernel does, too.
# Over TCP and TLS nobody is judged, nor is who is exempt: monitors, and our own service addresses, from which the
# health probe asks.  So what an active rule causes is never seen there as wrong data, nor as no answer.
#
# A shed rule comes first; what it lets by is charged to its source, unless it has a good server cookie.

from collections.abc import Callable, Sequence
from typing import Any

from rootsrv.admission.blocks import Matcher, words_of_prefix
from rootsrv.admission.limits import CONNECTIONS, Cells, Limiter, LimitSettings, cost_of
from rootsrv.admission.samples import ANSWERED, DROPPED, LIMITED, SHED, NotesWriter
from rootsrv.admission.shed import Rule, decide, judge_match
from rootsrv.answer.cookies import ServerCookies
from rootsrv.answer.question import HEADER_OCTETS, Query, QueryMalformed
from rootsrv.page import counts

_NEVER = 1 << 63
_CLASS_IN = 1
_COOKIE_HEAD = b"\0\x0a\0\x18"  # code and length of a COOKIE option with a server cookie (RFC 9018)
_OPCODE_BITS = 0x78

Truncate = Callable[[bytes, bytes, float], bytes | None]
"""(query, source, epoch seconds) → the response without an answer, with TC (Responder.respond_truncated)."""


class Gate:
    """Judges what a worker is about to send over UDP."""

    def __init__(self, words: memoryview, cells: Cells | None, notes: NotesWriter | None) -> None:
        """*words*: the worker's counters; *cells*: None where limits cannot be had."""
        self._words = words
        self._notes = notes
        self._limiter = None if cells is None else Limiter(cells, LimitSettings())
        self._rules: tuple[Rule, ...] = ()
        self._exempt = Matcher((), 0)
        self._mode = "off"
        self.is_open = not self._has_work()
        """Whether nothing needs to be judged."""

    def _has_work(self) -> bool:
        return bool(self._mode != "off" or self._rules or (self._notes is not None and self._notes.every))

    def change(self, document: dict[str, Any]) -> None:
        """From now on by *document* (Policy.to_document)."""
        settings = LimitSettings.from_document(document["limits"])
        self._mode = settings.mode if self._limiter is not None else "off"
        if self._limiter is not None:
            self._limiter.change(settings)
        self._rules = tuple(sorted(map(Rule.from_document, document["rules"]), key=lambda rule: rule.place))
        self._exempt = Matcher([(*words_of_prefix(each), _NEVER) for each in document["exempt"]], 0)
        if self._notes is not None:
            self._notes.every = document["sample_every"]
        self.is_open = not self._has_work()

    def refuses_connection(self, source: bytes, boottime: int) -> bool:
        """Whether a new TCP connection from *source* is one too many; it is charged if it is not."""
        if self._mode == "off" or self._limiter is None or self._exempt.blocks(source):
            return False
        return self._limiter.is_over(source, boottime, kind=CONNECTIONS) and self._mode == "on"

    def refuses_handshake(self, source: bytes, boottime: int, microseconds: int) -> bool:
        """Whether a TLS handshake that takes so much processor time is too much for *source*; charged if it is not."""
        if self._mode == "off" or self._limiter is None or self._exempt.blocks(source):
            return False
        return self._limiter.is_over_for_handshake(source, boottime, microseconds) and self._mode == "on"

    def judge(
        self,
        requests: Sequence[bytes],
        sources: Sequence[bytes],
        ports: Sequence[int],
        responses: list[bytes | None],
        *,
        boottime: int,
        now: float,
        cookies: ServerCookies | None,
        truncate: Truncate | None,
    ) -> int:
        """Put what is to be sent in place of `responses[i]`, None for nothing; how many were dropped.

        *boottime*: nanoseconds; *now*: epoch seconds; *truncate*: None while there is no answer table.
        """
        rules = self._rules
        if rules and any(rule.until_ns <= boottime for rule in rules):
            self._rules = rules = tuple(rule for rule in rules if rule.until_ns > boottime)
            self.is_open = not self._has_work()
        limits = self._mode != "off"
        noted = self._notes.chosen(len(requests)) if self._notes is not None else range(0)
        if not rules and not limits:
            chosen: Sequence[int] = noted
        else:
            chosen = range(len(requests))
            if limits and self._limiter is not None and len(sources) > 1:
                self._limiter.expect(sources)
        self._words[counts.LOOKED_AT] += len(requests)
        dropped = 0
        for number in chosen:
            response = responses[number]
            if response is None:
                continue
            request, source = requests[number], sources[number]
            notes = self._notes if number in noted else None
            has_cookie = _COOKIE_HEAD in request
            query = _query(request) if rules or has_cookie or notes is not None else None
            good = has_cookie and cookies is not None and _cookie_is_good(query, source, cookies, now)
            outcome = ANSWERED
            if (rules or limits) and not self._exempt.blocks(source):
                port = ports[number] if ports else 0
                outcome = self._judge(request, query, source, port, response, boottime, good)
            if outcome == DROPPED:
                responses[number] = None
                dropped += 1
            elif outcome != ANSWERED and truncate is not None:
                responses[number] = truncate(request, source, now)
            if notes is not None:
                notes.write(
                    request, source, ports[number] if ports else 0, responses[number], query,
                    outcome=outcome, cookie_is_good=good,
                )  # fmt: skip
        if dropped:
            self._words[counts.DROPPED + counts.DROP_REASONS.index("shed")] += dropped
        return dropped

    def _judge(
        self, request: bytes, query: Query | None, source: bytes, port: int, response: bytes, boottime: int, good: bool
    ) -> int:
        """What becomes of *request*; *query*: it, parsed, where there are rules."""
        words = self._words
        family = int(len(source) == 16)
        words[counts.JUDGED] += 1
        words[counts.JUDGED + 1] += good
        if self._rules:
            held = judge_match(query, request, source, port, self._rules)
            for rule in _counted(held):
                words[counts.RULES + 2 * rule.place] += 1
                words[counts.RULES + 2 * rule.place + 1] += good
            action = decide(held, cookie_is_good=good)
            if action == "drop":
                return DROPPED
            if action is not None:
                words[counts.SHED + family] += 1
                return SHED
        if self._mode == "off" or good or self._limiter is None:
            return ANSWERED
        if not self._limiter.is_over(source, boottime, cost_of(request, response)):
            return ANSWERED
        if self._mode == "on":
            words[counts.LIMITED + family] += 1
            return LIMITED
        words[counts.LIMITED + 2 + family] += 1
        return ANSWERED


def _counted(held: Sequence[Rule]) -> list[Rule]:
    """Of the rules that hold: the dry ones, and the one that decides."""
    first = next((rule for rule in held if not rule.dry), None)
    return [rule for rule in held if rule.dry or rule is first]


def _query(request: bytes) -> Query | None:
    """The query, if it is a well-formed question in class IN."""
    if len(request) < HEADER_OCTETS or request[2] & _OPCODE_BITS:
        return None
    try:
        query = Query.parse(request)
    except QueryMalformed:
        return None
    return query if query.question and query.qclass == _CLASS_IN else None


def _cookie_is_good(query: Query | None, source: bytes, cookies: ServerCookies, now: float) -> bool:
    cookie = query.edns.cookie if query is not None and query.edns is not None else None
    return cookie is not None and cookies.answer(cookie, source, now)[1]
