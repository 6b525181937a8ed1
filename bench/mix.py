"""A query mix: shares of kinds, names, qtypes and EDNS, from a documented file; equal seeds give equal queries."""

import random
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.rdatatype

from bench.queries import Query

ROOT_MIX = Path(__file__).parent / "mixes" / "root.toml"

_NXDOMAIN, _NOERROR = 3, 0
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_COOKIE, _OPT = 10, 41


class MixUnusable(Exception):
    """The mix file does not describe a mix."""


@dataclass(frozen=True)
class Mix:
    """The weights of a mix file; see bench/mixes/root.toml for what each means."""

    tables: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path = ROOT_MIX) -> "Mix":
        """Read *path*; MixUnusable names the key at fault."""
        try:
            tables = tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise MixUnusable(f"{path}: {error}") from error
        known = tomllib.loads(ROOT_MIX.read_text())
        for name, table in known.items():
            if not isinstance(tables.get(name), dict):
                raise MixUnusable(f"{path}: table [{name}] is missing")
            if name in ("measured", "edns", "nxdomain_names") and table.keys() - tables[name].keys():
                raise MixUnusable(f"{path}: {name}.{min(table.keys() - tables[name].keys())} is missing")
        unknown = tables["kinds"].keys() - known["kinds"].keys()
        if unknown:
            raise MixUnusable(f"{path}: kinds.{min(unknown)}: known are {', '.join(known['kinds'])}")
        if abs(sum(tables["kinds"].values()) - 1) > 1e-6:
            raise MixUnusable(f"{path}: [kinds] must sum to 1, not {sum(tables['kinds'].values()):g}")
        return cls(tables)

    def queries(self, tlds: list[str], count: int, seed: int = 1) -> list[Query]:
        """*count* queries for a root that delegates *tlds* (without final dots), drawn with *seed*."""
        draw = _Draw(self.tables, tlds, seed)
        return [draw.query() for _ in range(count)]

    def only(self, kind: str) -> "Mix":
        """The same mix with nothing but one kind of query."""
        return Mix({**self.tables, "kinds": {kind: 1.0}})

    def with_edns(self, **changes: float) -> "Mix":
        """The same mix with other values in [edns], such as cookie=0.0."""
        return Mix({**self.tables, "edns": {**self.tables["edns"], **changes}})


class _Draw:
    """One seeded series of queries."""

    def __init__(self, tables: Mapping[str, Any], tlds: list[str], seed: int) -> None:
        self._random = random.Random(seed)
        self._tables = tables
        self._existing = set(tlds)
        leaders = [tld for tld in ("com", "net", "org") if tld in self._existing]
        rest = sorted(self._existing - set(leaders))
        random.Random(0).shuffle(rest)  # popularity belongs to the zone, not to the seed
        self._tlds = leaders + rest
        zipf = tables["referral_labels"].get("tld_zipf", 0.9)
        self._tld_weights = _cumulated([rank**-zipf for rank in range(1, len(self._tlds) + 1)])
        self._choices: dict[str, tuple[list[Any], list[float]]] = {}
        for name in ("kinds", "qtypes", "apex_qtypes", "referral_labels"):
            self._add(name, {key: weight for key, weight in tables[name].items() if key != "tld_zipf"})
        self._add("sizes", tables["edns"]["sizes"])
        self._add("nxdomain_names", {k: w for k, w in tables["nxdomain_names"].items() if k != "junk_tlds"})
        self._junk = [tld for tld in tables["nxdomain_names"]["junk_tlds"] if tld not in self._existing]

    def _add(self, name: str, weights: Mapping[str, float]) -> None:
        self._choices[name] = (list(weights), _cumulated(list(weights.values())))

    def _choose(self, name: str) -> Any:
        values, cumulated = self._choices[name]
        return self._random.choices(values, cum_weights=cumulated)[0]

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def query(self) -> Query:
        kind = self._choose("kinds")
        qclass, rcode = 1, _NOERROR
        if kind == "nxdomain":
            name, qtype, rcode = self._missing_name(), self._choose("qtypes"), _NXDOMAIN
        elif kind == "referral":
            name, qtype = self._name_below_tld(), self._choose("qtypes")
        elif kind == "ds":
            name, qtype = self._tld(), "DS"
        elif kind == "apex":
            name, qtype = "", self._choose("apex_qtypes")
        elif kind == "hosts":
            name, qtype = f"{self._random.choice(_LETTERS[:13])}.root-servers.net", "AAAA" if self._chance(0.5) else "A"
        else:
            name, qtype, qclass = "version.bind", "TXT", 3
        octets = self._message(name, dns.rdatatype.from_text(qtype), qclass)
        return Query(
            octets,
            kind,
            None if qclass == 3 else rcode,
            6 if self._chance(self._tables["measured"]["ipv6"]) else 4,
            self._chance(self._tables["measured"]["tcp"]),
        )

    def _tld(self) -> str:
        return self._random.choices(self._tlds, cum_weights=self._tld_weights)[0]

    def _label(self, shortest: int = 3, longest: int = 14) -> str:
        return "".join(self._random.choices(_LETTERS, k=self._random.randint(shortest, longest)))

    def _name_below_tld(self) -> str:
        name = self._tld()
        for _ in range(int(self._choose("referral_labels"))):
            name = f"{self._label()}.{name}"
        # Names below root-servers.net are ours: they would not be referrals.
        return name if not name.endswith("root-servers.net") else "example.net"

    def _missing_label(self) -> str:
        while (label := self._label(7, 15)) in self._existing:
            pass
        return label

    def _missing_name(self) -> str:
        shape = self._choose("nxdomain_names")
        if shape == "junk_tld" and self._junk:
            return f"{self._label()}.{self._random.choice(self._junk)}"
        if shape == "numeric":
            return ".".join(str(self._random.randint(1, 254)) for _ in range(4))
        if shape == "deep":
            return f"{self._label()}.{self._label()}.{self._missing_label()}"
        return self._missing_label()

    def _message(self, name: str, qtype: int, qclass: int) -> bytes:
        edns = self._tables["edns"]
        if self._chance(edns["upper_case"]):
            name = "".join(letter.upper() if self._chance(0.5) else letter for letter in name)
        labels = [label.encode() for label in name.split(".") if label]
        question = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
        question += qtype.to_bytes(2, "big") + qclass.to_bytes(2, "big")
        flags = (0x0100 if self._chance(edns["rd"]) else 0) | (0x0010 if self._chance(edns["cd"]) else 0)
        opt = b""
        if not self._chance(edns["absent"]):
            options = b""
            dnssec_ok = 0x8000 if self._chance(edns["do"]) else 0
            if self._chance(edns["cookie"]):
                options = _COOKIE.to_bytes(2, "big") + b"\0\x08" + self._random.randbytes(8)
            size = int(self._choose("sizes"))
            opt = b"\0" + b"".join(field.to_bytes(2, "big") for field in (_OPT, size, 0, dnssec_ok, len(options)))
            opt += options
        counts = bytes([0, 1, 0, 0, 0, 0, 0, 1 if opt else 0])
        return b"\0\0" + flags.to_bytes(2, "big") + counts + question + opt


def _cumulated(weights: list[float]) -> list[float]:
    total, sums = 0.0, []
    for weight in weights:
        total += weight
        sums.append(total)
    return sums


def delegated_tlds(zone_text: str) -> list[str]:
    """Owners of NS one label below the root, from a zone file with one record per line and absolute names."""
    found = set()
    for line in zone_text.splitlines():
        fields = line.split(None, 5)
        if len(fields) > 3 and "NS" in (fields[2].upper(), fields[3].upper()) and fields[0].count(".") == 1:
            owner = fields[0].rstrip(".").lower()
            if owner:
                found.add(owner)
    return sorted(found)
