"""The C structures of the table are those that rootsrv/answer/table.py writes."""

import errno
import re
import struct

import pytest

from rootsrv.answer import table
from rootsrv.fastpath import libbpf
from rootsrv.fastpath.layout import LAYOUT, Reason, constant, ffi
from rootsrv.fastpath.program import FastPathUnavailable, Program
from rootsrv.wire import edns
from tests.fastpath.conftest import require_program

STRUCTURES = {
    "table_header": table.HEADER,
    "table_zone": table.ZONE,
    "table_name": table.NAME,
    "table_rest": table.REST,
    "table_owner": table.OWNER,
    "table_type": table.TYPE,
    "table_answer": table.ANSWER,
    "table_cut": table.CUT,
}


def flattened(kind: object) -> list[tuple[int, int]]:
    """(offset, size) of every number and octet string of a C structure that is not called unused."""
    places = []
    for name, each in kind.fields:  # type: ignore[attr-defined]
        if name == "unused":
            continue
        if each.type.kind == "array" and each.type.item.cname != "uint8_t":
            size = ffi.sizeof(each.type.item)
            places += [(each.offset + index * size, size) for index in range(each.type.length)]
        else:
            places.append((each.offset, ffi.sizeof(each.type)))
    return places


def packed_places(layout: struct.Struct) -> list[tuple[int, int]]:
    """The same of a Python format: every field's place is where the octets change when it does."""
    places, at = [], 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", layout.format.lstrip("<")):
        if code in "sx":
            size = int(count or 1)
            if code == "s":
                places.append((at, size))
            at += size
            continue
        for _ in range(int(count or 1)):
            size = struct.calcsize("<" + code)
            places.append((at, size))
            at += size
    assert at == layout.size
    return places


@pytest.mark.parametrize("name", STRUCTURES)
def test_c_and_python_agree_on_the_size_and_on_the_place_of_every_field(name: str) -> None:
    kind = ffi.typeof(f"struct {name}")
    layout = STRUCTURES[name]

    assert ffi.sizeof(kind) == layout.size
    missing = set(flattened(kind)) - set(packed_places(layout))
    assert not missing
    spare = set(packed_places(layout)) - set(flattened(kind))
    assert all(kind_of_spare(kind, place) for place in spare), spare


def kind_of_spare(kind: object, place: tuple[int, int]) -> bool:
    """Whether *place* lies in a field called unused."""
    return any(
        name == "unused" and each.offset <= place[0] and place[0] + place[1] <= each.offset + ffi.sizeof(each.type)
        for name, each in kind.fields  # type: ignore[attr-defined]
    )


def test_flags_have_the_same_values() -> None:
    for name in ("NAME_IS_DELEGATION", "NAME_HAS_HOST_ZONE", "CUT_TRUNCATED"):
        assert constant(name) == getattr(table, name)


def test_as_many_options_are_read_as_the_responder_reads() -> None:
    assert constant("MAX_OPTIONS") <= edns.MAX_OPTIONS


def test_there_is_a_counter_for_every_reason() -> None:
    assert ffi.typeof("struct counters").fields
    counters = dict(ffi.typeof("struct counters").fields)
    assert counters["passes"].type.length == constant("REASONS") == len(Reason) + 1


def test_array_sizes_that_are_spelt_out_are_those_that_have_a_name() -> None:
    control = dict(ffi.typeof("struct control").fields)
    counters = dict(ffi.typeof("struct counters").fields)

    assert control["nsid_option"].type.length == constant("MAX_NSID_OPTION")
    assert control["interfaces"].type.length == constant("MAX_INTERFACES")
    assert control["service_ipv4"].type.length == constant("MAX_SERVICE_ADDRESSES")
    assert control["service_ipv6"].type.length == constant("MAX_SERVICE_ADDRESSES")
    assert control["own_filter"].type.length == constant("OWN_FILTER_BITS") // 8
    assert control["secrets"].type.item.length == constant("MAX_SECRETS")
    assert control["answer_until"].type.item.length == constant("MAX_ZONES")
    assert counters["queries_by_size"].type.item.length == constant("QUERY_BINS")
    assert counters["replies_by_size"].type.item.length == constant("RESPONSE_BINS")


@pytest.mark.parametrize("stale", ["another layout", "no layout"])
def test_a_program_that_was_built_from_other_headers_is_not_used(stale: str) -> None:
    elf = require_program()
    if stale == "another layout":
        octets = LAYOUT.to_bytes(8, "little")
        assert elf.count(octets) == 1
        elf = elf.replace(octets, bytes(8))
    else:
        elf = elf.replace(b".rodata.layout\0", b".unused.layout\0")

    with pytest.raises(FastPathUnavailable, match=r"built from other sources than these \(make bpf\)"):
        Program.load(elf)


def test_a_host_that_does_not_say_how_many_cpus_it_has_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    require_program()
    opened = libbpf.library()

    class WithoutSys:
        def __getattr__(self, name: str) -> object:
            return (lambda: -errno.ENOENT) if name == "libbpf_num_possible_cpus" else getattr(opened, name)

    monkeypatch.setattr(libbpf, "library", WithoutSys)
    with pytest.raises(FastPathUnavailable, match="CPUs of this host: No such file"):
        Program.load()
