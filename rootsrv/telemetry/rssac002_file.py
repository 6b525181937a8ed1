"""Reading RSSAC002 files, ours and others': the little YAML they are written in, and whether they are right."""
# The files published by root server operators are block mappings of scalars, at most one level deep, some with quotes.
# That is what is read here; anything else (lists, anchors, tags, documents after the first) is an error in such a file.

import datetime
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rootsrv.page.counts import BIN_OCTETS, REQUEST_BINS, RESPONSE_BINS
from rootsrv.telemetry.rssac002 import METRICS, SIZE_KEYS, SOURCE_KEYS, TLS_VOLUME_KEYS, VOLUME_KEYS, bin_name

VERSIONS = ("rssac002v3", "rssac002v4", "rssac002v5")
_HEADER = ("version", "service", "start-period", "metric")
# zone-size is the maintainer's (rzm-, earlier root-, for the service root-servers.net); some operators had it too.
_NAME = re.compile(r"(?P<prefix>rzm|root|.+-root)-(?P<day>\d{8})-(?P<metric>[a-z-]+)\.yaml")
_LINE = re.compile(r"""(?P<indent> *)(?P<key>'[^']*'|"[^"\\]*"|[^\s'"#:{}\[\],&*!|>%@`-][^:#]*?) *:(?P<value>| .*)""")
_MAINTAINER = ("rzm", "root")
_MAINTAINED = "root-servers.net"
_LONGEST_FILE_OCTETS = 1 << 20


class NotRssac002(ValueError):
    """The file is not what RSSAC002 asks for."""


Scalars = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rssac002File:
    """One file's contents; `read` makes it, and checks nothing but that."""

    values: Mapping[str, str | Scalars]
    name: str

    def scalar(self, key: str) -> str:
        """The scalar *key*; NotRssac002 if it is not there."""
        value = self.values.get(key)
        if not isinstance(value, str):
            raise NotRssac002(f"{key}: is missing" if value is None else f"{key}: must be one value")
        return value

    def mapping(self, key: str) -> Scalars:
        """The mapping *key*; NotRssac002 if it is not there."""
        value = self.values.get(key)
        if value is None or isinstance(value, str):
            raise NotRssac002(f"{key}: is missing" if value is None else f"{key}: must be a mapping")
        return value

    @property
    def metric(self) -> str:
        """One of METRICS, if the file is right."""
        return self.scalar("metric")


def read(path: Path) -> Rssac002File:
    """The file at *path*; OSError, NotRssac002."""
    octets = path.read_bytes()
    if len(octets) > _LONGEST_FILE_OCTETS:
        raise NotRssac002(f"{len(octets)} octets: too large")
    try:
        return Rssac002File(parse(octets.decode()), path.name)
    except UnicodeDecodeError as error:
        raise NotRssac002(f"not UTF-8: {error.reason} at octet {error.start}") from error


def parse(text: str) -> dict[str, str | Scalars]:
    """The mapping that *text* (YAML) is; NotRssac002 names the line that cannot be read."""
    values: dict[str, str | Scalars] = {}
    inner: dict[str, str] | None = None
    open_key = ""
    indent = 0
    for number, line in enumerate(text.splitlines(), 1):
        content = line.rstrip()
        if not content or content.lstrip().startswith("#") or (content == "---" and not values):
            continue
        found = _LINE.fullmatch(content)
        if found is None:
            raise NotRssac002(f"line {number}: expected `key: value`, got {content[:60]!r}")
        key, value = _unquoted(found["key"]), _value(found["value"], number)
        depth = len(found["indent"])
        if depth:
            if inner is None or (indent and depth != indent) or value == "":
                raise NotRssac002(f"line {number}: unexpected indentation")
            indent = depth
            _put(inner, key, value, number)
            continue
        if inner is not None and not inner and open_key:
            raise NotRssac002(f"line {number}: {open_key} has no value")
        inner, indent, open_key = None, 0, ""
        if value == "":
            inner, open_key = {}, key
            _put(values, key, inner, number)
        else:
            _put(values, key, {} if value == "{}" else value, number)
    if open_key and not inner:
        raise NotRssac002(f"{open_key} has no value")
    return values


def _put(into: "dict[str, str] | dict[str, str | Scalars]", key: str, value: "str | Scalars", number: int) -> None:
    if key in into:
        raise NotRssac002(f"line {number}: {key} is there twice")
    into[key] = value  # type: ignore[assignment]


def _value(text: str, number: int) -> str:
    text = text.strip()
    if text[:1] not in ("'", '"'):
        text = text.split(" #")[0].rstrip()
    if (text and text[0] in "[&*!|>%@`") or (text[:1] == "{" and text != "{}"):
        raise NotRssac002(f"line {number}: expected a plain value, got {text[:60]!r}")
    return _unquoted(text)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" else text


# ── whether it is right ─────────────────────────────────────────────────────────────────────────────────────────────


def problems(file: Rssac002File) -> Iterator[str]:
    """What is wrong with *file*, by RSSAC002v5 and by its own name; nothing = nothing."""
    try:
        yield from _header_problems(file)
        metric = file.metric
    except NotRssac002 as error:
        yield str(error)
        return
    try:
        match metric:
            case "load-time":
                yield from _load_time_problems(file)
            case "traffic-volume":
                yield from _flat_problems(file, VOLUME_KEYS)
            case "traffic-sizes":
                yield from _sizes_problems(file)
            case "rcode-volume":
                yield from _rcode_problems(file)
            case "zone-size":
                yield from _zone_size_problems(file)
            case "unique-sources":
                yield from _flat_problems(file, SOURCE_KEYS)
            case _:
                yield f"metric: must be one of {', '.join((*METRICS, 'zone-size'))}; got {metric!r}"
    except NotRssac002 as error:
        yield str(error)


def _header_problems(file: Rssac002File) -> Iterator[str]:
    if file.scalar("version") not in VERSIONS:
        yield f"version: must be one of {', '.join(VERSIONS)}; got {file.scalar('version')!r}"
    start = file.scalar("start-period")
    try:
        at = datetime.datetime.fromisoformat(start)
    except ValueError:
        yield f"start-period: not a time: {start!r}"
        return
    if at.utcoffset() != datetime.timedelta() or at.time() != datetime.time():
        yield f"start-period: must be midnight UTC, got {start!r}"
    named = _NAME.fullmatch(file.name)
    if named is None:
        yield f"the file's name must be <letter>-root-YYYYMMDD-<metric>.yaml, got {file.name}"
        return
    if named["day"] != f"{at:%Y%m%d}":
        yield f"start-period: {start} in a file of {named['day']}"
    if named["metric"] != file.metric:
        yield f"metric: {file.metric} in a file of {named['metric']}"
    service = file.scalar("service")
    if file.metric == "zone-size" and named["prefix"] in _MAINTAINER:
        if service != _MAINTAINED:
            yield f"service: must be {_MAINTAINED} in a file of {named['prefix']}, got {service}"
    elif named["prefix"] != f"{service.split('.')[0]}-root":
        yield f"service: {file.scalar('service')} in a file of {named['prefix']}"


def _amount(key: str, text: str) -> Iterator[str]:
    if not re.fullmatch("[0-9]{1,19}", text):
        yield f"{key}: must be a whole number, got {text[:40]!r}"


def _flat_problems(file: Rssac002File, keys: tuple[str, ...]) -> Iterator[str]:
    letter = _letter(file)
    own = tuple(key for key in file.values if key.startswith(f"{letter}-"))
    yield from _foreign(file, (*keys, *own))
    for key in (*keys, *own):
        yield from _amount(key, file.scalar(key))


def _letter(file: Rssac002File) -> str:
    """What an operator's own keys begin with, and "-": the first label of its service."""
    return file.scalar("service").split(".", maxsplit=1)[0]


def _foreign(file: Rssac002File, keys: tuple[str, ...]) -> Iterator[str]:
    for key in file.values:
        if key not in (*_HEADER, *keys):
            yield f"{key}: does not belong here"


def _rcode_problems(file: Rssac002File) -> Iterator[str]:
    for key, value in file.values.items():
        if key in _HEADER:
            continue
        if not re.fullmatch("[0-9]{1,4}", key) or int(key) > 4095 or not isinstance(value, str):
            yield f"{key}: must be an rcode, 0..4095"
        else:
            yield from _amount(key, value)


def _load_time_problems(file: Rssac002File) -> Iterator[str]:
    return _problems_by_serial(file, "time")


def _zone_size_problems(file: Rssac002File) -> Iterator[str]:
    """The root zone maintainer's part of RSSAC002: octets of the zone, by serial."""
    return _problems_by_serial(file, "size")


def _problems_by_serial(file: Rssac002File, key: str) -> Iterator[str]:
    yield from _foreign(file, (key,))
    for serial, amount in file.mapping(key).items():
        if not re.fullmatch("[0-9]{1,10}", serial):
            yield f"{key}: {serial}: must be a serial"
        yield from _amount(f"{key}: {serial}", amount)


def _sizes_problems(file: Rssac002File) -> Iterator[str]:
    yield from _foreign(file, SIZE_KEYS)
    for key in SIZE_KEYS:
        last = (REQUEST_BINS if "request" in key else RESPONSE_BINS) - 1
        for name, amount in file.mapping(key).items():
            first = name.partition("-")[0]
            if not re.fullmatch("[0-9]{1,9}", first) or bin_name(min(int(first) // BIN_OCTETS, last), last) != name:
                yield f"{key}: {name}: must be 16 octets from a multiple of 16 on, the last one {bin_name(last, last)}"
            yield from _amount(f"{key}: {name}", amount)


def responses(file: Rssac002File) -> int | None:
    """How many responses were sent, as far as *file* (a right one) says; None if it does not."""
    match file.metric:
        case "traffic-volume":
            return sum(int(file.scalar(key)) for key in VOLUME_KEYS if "responses-sent" in key) + tls_responses(file)
        case "rcode-volume":
            return sum(int(str(value)) for key, value in file.values.items() if key not in _HEADER)
        case "traffic-sizes":
            return sum(int(each) for key in SIZE_KEYS if "response" in key for each in file.mapping(key).values())
    return None


def tls_responses(file: Rssac002File) -> int:
    """Of those in a traffic-volume: the ones that were sent over TLS, which no traffic-sizes count."""
    keys = [f"{_letter(file)}-{key}" for key in TLS_VOLUME_KEYS if "responses-sent" in key]
    return sum(int(file.scalar(key)) for key in keys if key in file.values)
