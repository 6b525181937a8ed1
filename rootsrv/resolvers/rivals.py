"""What in a resolver's own configuration has the root from elsewhere than the part that is generated for it."""
# Tried: Unbound 1.17 takes a second auth-zone "." without a word, and the one that comes first answers; an rpz "."
# that comes first takes its place, and nothing is answered (of another rpz see policy_zone.py).  A forward-zone "."
# has every name that exists, a stub-zone "." is asked when the copy is over; a local-zone "." answers in place of
# everything, but for six types.  BIND 9.18 refuses to start with a second zone ".", and with a zone outside views
# where there are views; one of type hint beside the mirror is taken, and harms nothing; forwarders in its options are
# asked for every name that exists.  Knot Resolver 5 has one prefill, PowerDNS Recursor 4.8 one zoneToCache for a zone
# and one lua-config-file: the last one counts.  Of two zonetocaches of "." PowerDNS Recursor 5.2 takes the one it
# reads first, recursor.yml before what its include_dir has.  auth-zones with "." answers in place of the recursor's
# cache, and its rpzs are as those of Lua.  Knot Resolver 6 was not tried: there it is said that something is there
# twice, and what its manual says.

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from rootsrv.resolvers.policy_zone import EVERY_NAME, EVERY_QUERY, answers_all


@dataclass
class Clauses:
    """What one file says."""

    rivals: list[tuple[int, str]] = field(default_factory=list)
    """Lines, and what stands there."""

    includes: "list[tuple[str, Read]]" = field(default_factory=list)
    """Further files, as patterns (glob), and how they are read."""

    directory: str = ""
    """To which later relative names belong; empty = nothing is said of it."""

    policies: "list[PolicyZone]" = field(default_factory=list)
    """Response policy zones that are asked."""

    files: dict[str, str] = field(default_factory=dict)
    """By zone the file that it is in, where policies do not say that."""


@dataclass(frozen=True)
class PolicyZone:
    """A response policy zone."""

    zone: str
    """Its name; empty = the file tells it."""

    file: str
    """Where it is; empty = `Clauses.files` may tell."""

    triggers: frozenset[str] = EVERY_NAME
    """What has the software answer everything from it."""

    def rivals(self, text: str) -> list[tuple[int, str]]:
        """As Clauses has them, of the file."""
        return list(answers_all(text, self.zone, self.triggers))


Read = Callable[[str], Clauses]

_TWICE = 'has the root already: if that is not this part itself, whether "." may stand twice was not tried'


def _lines(text: str, tokens: "re.Pattern[str]") -> Iterator[tuple[int, re.Match[str]]]:
    """What *tokens* finds one after the other, with the line where it begins."""
    line, at = 1, 0
    for found in tokens.finditer(text):
        line += text.count("\n", at, found.start())
        at = found.start()
        yield line, found


# ── Unbound: words that end in a colon are keys, line ends mean nothing ──

_UNBOUND = re.compile(r"""\#[^\n]*|"(?P<q>[^"\n]*)"|'(?P<s>[^'\n]*)'|(?P<word>[^\s"']+)""")
_UNBOUND_RIVALS = {
    "auth-zone:": 'is a second auth-zone ".": Unbound answers from the first of both, and does not say so',
    "forward-zone:": 'is a forward-zone ".": names that exist are asked for there, not from the root on',
    "rpz:": 'is an rpz ".": where it comes first, Unbound has the root from it and answers nothing',
    "stub-zone:": 'is a stub-zone ".": it is asked in place of the root servers when the copy is over',
}
_LOCAL_ZONE = 'is a local-zone "." ({type}): Unbound answers all names itself, and asks for none'
_NO_ACTION = {"disabled", "log-only", "passthru"}
_HARMLESS_TYPES = {"transparent", "typetransparent", "always_transparent", "inform", "nodefault", "noview"}
_UNBOUND_CLAUSES = {*_UNBOUND_RIVALS} | {
    f"{each}:"
    for each in [
        "server",
        "view",
        "remote-control",
        "python",
        "dynlib",
        "cachedb",
        "redis",
        "dnscrypt",
        "ipset",
        "dnstap",
    ]
}


def unbound(text: str) -> Clauses:
    """unbound.conf(5)."""
    made, clause, key, local = Clauses(), "", "", 0
    policy: dict[str, str] = {}

    def end_policy() -> None:
        if policy.get("zonefile:") and policy.get("rpz-action-override:") not in _NO_ACTION:
            made.policies.append(PolicyZone(policy.get("name:", ""), policy["zonefile:"], EVERY_QUERY))
        policy.clear()

    for line, found in _lines(text, _UNBOUND):
        word = found["word"]
        if word is None and found["q"] is None and found["s"] is None:
            continue  # a comment
        if local:
            if (kind := word or found["q"] or found["s"] or "") not in _HARMLESS_TYPES:
                made.rivals.append((local, _LOCAL_ZONE.format(type=kind)))
            local = 0
        elif word in _UNBOUND_CLAUSES:
            end_policy()
            clause, key = word, ""
        elif not key and word is not None and word.endswith(":"):
            key = word
        else:
            value = word or found["q"] or found["s"] or ""
            if key in ("include:", "include-toplevel:"):
                made.includes.append((value, unbound))
            elif key == "directory:":
                made.directory = value
            elif key == "local-zone:" and value == ".":
                local = line
            elif key == "name:" and value == "." and clause in _UNBOUND_RIVALS:
                made.rivals.append((line, _UNBOUND_RIVALS[clause]))
            if clause == "rpz:":
                policy[key] = value
            key = ""
    end_policy()
    return made


# ── BIND: statements with blocks ──

_BIND = re.compile(r"""//[^\n]*|\#[^\n]*|/\*.*?\*/|"(?P<q>[^"]*)"|(?P<word>[^\s"{};]+)|(?P<mark>[{};])""", re.DOTALL)

_BIND_FORWARDS = "are forwarders for everything: names that exist are asked for there, not from the root on"


def bind(text: str) -> Clauses:
    """named.conf(5)."""
    made = Clauses()
    words: list[str] = []
    blocks: list[list[str]] = []
    begun = zone = forwarders = 0
    for line, found in _lines(text, _BIND):
        mark = found["mark"]
        if mark is None:
            if (word := found["q"] if found["q"] is not None else found["word"]) is not None:
                begun = begun if words else line
                words.append(word)
            continue
        if words[:1] == ["include"] and len(words) == 2:
            made.includes.append((words[1], bind))
        elif words[:1] == ["directory"] and len(words) == 2:
            made.directory = words[1]
        elif words[:1] == ["type"] and len(words) == 2 and zone and words[1] != "hint":
            made.rivals.append((zone, f'is a second zone "." ({words[1]}): BIND refuses to start'))
        elif words[:1] == ["file"] and len(words) == 2 and blocks and blocks[-1][:1] == ["zone"]:
            made.files[blocks[-1][1].lower().rstrip(".")] = words[1]
        elif words[:1] == ["zone"] and len(words) > 1 and blocks and blocks[-1][:1] == ["response-policy"]:
            action = words[words.index("policy") + 1 :][:1] if "policy" in words[2:] else []
            if not _NO_ACTION.intersection(action):
                made.policies.append(PolicyZone(words[1].lower().rstrip("."), ""))
        if mark == "{":
            if words[:2] == ["zone", "."]:
                zone = begun
            elif words[:1] == ["forwarders"]:
                forwarders = begun if blocks and blocks[-1] == ["options"] else 0
            elif words[:1] == ["view"]:
                made.rivals.append(
                    (begun, "is a view: BIND takes a zone in views alone then, so include the part there")
                )
            blocks.append(words)
            words = []
        elif mark == "}" and blocks and blocks.pop()[:1] == ["zone"]:
            zone = 0
        elif mark == ";" and forwarders and blocks and blocks[-1][:1] == ["forwarders"] and words:
            made.rivals.append((forwarders, _BIND_FORWARDS))
            forwarders = 0
        words = []
    return made


# ── Lua: Knot Resolver 5, PowerDNS Recursor 4 ──

_LUA = re.compile(
    r"""--\[(?P<level>=*)\[.*?\](?P=level)\]|--[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)
_DOFILE = re.compile(r"""\bdofile\s*\(?\s*(?:'([^'\n]*)'|"([^"\n]*)")""")


def _lua(text: str, rivals: "Mapping[re.Pattern[str], str]", read: Read) -> Clauses:
    def without_comments(found: "re.Match[str]") -> str:
        return "\n" * found[0].count("\n") if found[0].startswith("--") else found[0]

    text = _LUA.sub(without_comments, text)
    made = Clauses(includes=[(each[1] or each[2] or "", read) for each in _DOFILE.finditer(text)])
    for pattern, says in rivals.items():
        made.rivals += [(text.count("\n", 0, each.start()) + 1, says) for each in pattern.finditer(text)]
    made.rivals.sort()
    for policy in _LUA_POLICIES.finditer(text):
        if "NoAction" not in policy["options"]:
            made.policies.append(PolicyZone("", policy["file"], EVERY_NAME if policy["action"] else EVERY_QUERY))
    return made


_LUA_POLICIES = re.compile(
    r"""\b(?:policy\s*\.\s*rpz\s*\(\s*(?P<action>policy\.\w+)(?:\([^)\n]*\))?\s*,|rpzFile\s*\()"""
    r"""\s*(?P<quote>['"])(?P<file>[^'"\n]*)(?P=quote)(?P<options>[^\n]*)"""
)

_FORWARDS_ALL = "forwards everything: what is not in the cache is asked for there, not from the root on"
_KRESD_RIVALS = {
    re.compile(r"\bprefill\s*\.\s*config\b|\bprefill\s*=\s*\{"): "configures prefill, too: the last one counts",
    re.compile(r"\bpolicy\s*\.\s*all\s*\(\s*policy\s*\.\s*(?:TLS_)?(?:FORWARD|STUB)\b"): (_FORWARDS_ALL),
}
_PDNS_LUA_RIVALS = {
    re.compile(r"""\bzoneToCache\s*\(\s*(?:'\.'|"\.")"""): 'is another zoneToCache of ".": the last one counts',
}


def kresd(text: str) -> Clauses:
    """kresd.conf of Knot Resolver 5."""
    return _lua(text, _KRESD_RIVALS, kresd)


def pdns_lua(text: str) -> Clauses:
    """What lua-config-file of PowerDNS Recursor names."""
    return _lua(text, _PDNS_LUA_RIVALS, pdns_lua)


# ── PowerDNS Recursor 4: key=value ──

_FORWARDS = 'forwards ".": what is not in the cache is asked for there, not from the root on'
_PDNS_RIVALS = {
    "auth-zones": 'has "." in auth-zones: it answers from that file, not from the copy',
    "forward-zones": _FORWARDS,
    "forward-zones-recurse": _FORWARDS,
}


def pdns(text: str) -> Clauses:
    """recursor.conf of PowerDNS Recursor 4."""
    made = Clauses()
    for line, written in enumerate(text.splitlines(), 1):
        key, _, value = written.partition("#")[0].partition("=")
        key, value = key.strip().rstrip("+").rstrip(), value.strip()
        if key == "include-dir" and value:
            made.includes.append((f"{value}/*.conf", pdns))
        elif key in _PDNS_RIVALS and any(each.strip().startswith(".=") for each in value.split(",")):
            made.rivals.append((line, _PDNS_RIVALS[key]))
        elif key in ("forward-zones-file", "lua-config-file") and value:
            made.includes.append((value, pdns if key == "forward-zones-file" else pdns_lua))
        elif re.fullmatch(r"[+^]*\.", key):  # in a forward-zones-file
            made.rivals.append((line, _PDNS_RIVALS["forward-zones"]))
    return made


# ── YAML, which the standard library does not read: by the line ──


_YAML_COMMENT = re.compile(r"(?:^|(?<=\s))#.*", re.MULTILINE)
_YAML_ITEM = re.compile(r"(?:^|(?<=[\s\[,]))-(?=\s)|(?:^|(?<=[\s\[,:]))\{", re.MULTILINE)
_YAML_VALUE = re.compile(
    r"""(?:^|(?<=[\s{,]))(?P<key>[a-zA-Z_-]+)\s*:(?=[\s\['"]|$)[^\S\n]*"""
    r"""(?P<value>"[^"\n]*"|'[^'\n]*'|\[[^\]]*\]|[^\s,{}\[\]][^,{}\[\]\n]*)?""",
    re.MULTILINE,
)


def _entries(text: str, name: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Line and values of each entry of the lists called *name* in *text*, in block or in flow style."""
    text = _YAML_COMMENT.sub(lambda found: " " * len(found[0]), text)
    for found in re.finditer(rf"(?P<before>^[ -]*|[{{,]\s*)\b{name}\s*:(?=\s)", text, re.MULTILINE):
        begin = text.rfind("\n", 0, found.end()) + 1
        indent = len(text[begin:]) - len(text[begin:].lstrip(" -"))
        # A list may stand as far to the left as its name: the next key there ends it.
        rest = re.compile(rf"^ {{0,{indent}}}(?![ \n-]|- )", re.MULTILINE).search(text, found.end())
        region = text[found.end() : rest.start() if rest else len(text)]
        items = [*_YAML_ITEM.finditer(region)]
        for item, following in zip(items, [*(each.start() for each in items[1:]), len(region)], strict=True):
            values = {
                each["key"]: (each["value"] or "").strip().strip("'\"")
                for each in _YAML_VALUE.finditer(region, item.end(), following)
            }
            yield text.count("\n", 0, found.end() + item.start()) + 1, values


_PREFILL = re.compile(r"^ *prefill *:", re.MULTILINE)


def kresd6(text: str) -> Clauses:
    """config.yaml of Knot Resolver 6, by its manual."""
    made = Clauses([(text.count("\n", 0, each.start()) + 1, _TWICE) for each in _PREFILL.finditer(text)])
    for line, entry in _entries(text, "forward"):
        if "." in re.split(r"[\s,'\"\[\]]+", entry.get("subtree", "")):
            made.rivals.append((line, _FORWARDS_ALL))
    made.policies = [PolicyZone("", each["file"]) for _, each in _entries(text, "rpz") if each.get("file")]
    return made


_PDNS5_LISTS = {
    "zonetocaches": 'is another entry of zonetocaches for ".": the one that is read first counts, recursor.yml first',
    "auth_zones": 'has "." in auth_zones: it answers from that file, not from the copy',
    "forward_zones": _FORWARDS,
    "forward_zones_recurse": _FORWARDS,
}
_PDNS5_WORD = re.compile(
    rf"""\b(?P<list>{"|".join(_PDNS5_LISTS)})\s*:|(?:^|[\s{{,\[-])zone\s*:\s*(?:\.|'\.'|"\.")\s*(?=[,}}\]]|$)"""
)
_PDNS5_FILE = re.compile(
    r"""(?:^|[{,]) *(include_dir|lua_config_file|forward_zones_file) *: *['"]?([^'"#,}\n]+?)['"]? *(?:[,}].*|#.*)?$""",
    re.MULTILINE,
)


def pdns5(text: str) -> Clauses:
    """recursor.yml of PowerDNS Recursor 5, which may be named recursor.conf, and what its include_dir has."""
    made = Clauses(_pdns5_zones(text))
    for _, each in _entries(text, "rpzs"):
        # With addresses its name is not that of a file.
        if each.get("name") and "addresses" not in each and each.get("defpol") != "NoAction":
            made.policies.append(PolicyZone("", each["name"], EVERY_QUERY))
    for found in _PDNS5_FILE.finditer(text):
        key, value = found[1], found[2].strip()
        if key == "include_dir":
            made.includes.append((f"{value}/*.yml", pdns5))
        else:
            made.includes.append((value, pdns_lua if key == "lua_config_file" else _forwarded))
    return made


def _forwarded(text: str) -> Clauses:
    """A forward_zones_file, which is YAML or as PowerDNS Recursor 4 has it."""
    return Clauses([*_pdns5_zones(text), *pdns(text).rivals])


def _pdns5_zones(text: str) -> list[tuple[int, str]]:
    """Where "." is an entry of a list; outside of all lists it is one of a forward_zones_file."""
    found, says = [], _FORWARDS
    for line, written in enumerate(text.splitlines(), 1):
        plain = _YAML_COMMENT.sub("", written)
        for each in _PDNS5_WORD.finditer(plain):
            if each["list"]:
                says = _PDNS5_LISTS[each["list"]]
            else:
                found.append((line, says))
    return found
