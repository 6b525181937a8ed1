"""The BPF program in the kernel: loaded, with its tables, control block and counters; not attached to anything."""
# Theory of operation
# -------------------
# The kernel holds two generations of the answer table, each the table file octet for octet, and a control block.  Both
# are mapped here, so that publishing is copying and the switchover is one 4-byte store to `active`, which every
# packet reads once.
#
# Staging overwrites the generation that is not active.  A packet that read `active` just before the last switchover may
# still be reading there, so staging first waits until every packet that was under way then is done (an RCU grace
# period: BPF programs run inside RCU read-side sections).
#
# A generation answers for each zone only until `answer_until` on CLOCK_BOOTTIME, which whoever owns the attachment
# renews: when all of our processes are dead, the program falls silent (passes everything) by itself.

import ctypes
import ipaddress
import mmap
import os
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Self

from rootsrv.answer.responder import ResponderSettings
from rootsrv.answer.table import INDEX_LIMIT, NAME_HAS_HOST_ZONE, AnswerTable
from rootsrv.fastpath import admission, libbpf
from rootsrv.fastpath.layout import COUNTERS_OCTETS, LAYOUT, KernelCounters, constant, ffi
from rootsrv.page import unique_sources
from rootsrv.page.day import day_of
from rootsrv.page.layout import BlockWords, covers

XDP_DROP, XDP_PASS, XDP_TX = 1, 2, 3
TC_NEXT, TC_DROP, TC_REDIRECT = 0xFFFFFFFF, 2, 7

TEST_IFINDEX = 1
"""The loopback interface's, from which packets of test runs seem to come."""

TABLE_ROOM = constant("TABLE_ROOM")
_ELEMENT = TABLE_ROOM + constant("TABLE_SLACK")
_WORD = (1 << 64) - 1

_SYS_MEMBARRIER = {"x86_64": 324, "aarch64": 283, "riscv64": 283}
_MEMBARRIER_GLOBAL = 1


class FastPathUnavailable(Exception):
    """The kernel fast path cannot be used here; the asyncio server answers everything."""


class TableUnfit(ValueError):
    """This answer table cannot be answered from in the kernel."""


@dataclass(frozen=True, slots=True)
class Interface:
    """What the program must know of an interface it is attached to."""

    ifindex: int
    mtu: int
    mac: bytes
    """Six octets; zeros on the loopback interface."""

    virtual: bool
    """Frames never left this host, so that a sender's unfinished checksum is as good as a right one."""

    loopback: bool


def built_object() -> bytes:
    """The compiled program (`make bpf`); FastPathUnavailable says how to get it."""
    try:
        return resources.files("rootsrv.fastpath").joinpath("bpf", "rootsrv.bpf.o").read_bytes()
    except OSError as error:
        raise FastPathUnavailable(
            "the BPF program is not built (make bpf, which needs clang and libbpf-dev)"
        ) from error


class Program:
    """The program, loaded: its maps live as long as this object and the attachments."""

    def __init__(self, loaded: libbpf.BpfObject, cells: int | None = None, capture_chunks: int = 0) -> None:
        """Use `load`."""
        self.admission = admission.KernelAdmission(loaded, _wait_for_packets_under_way, cells)
        self._object = loaded
        self.capture_chunks = capture_chunks
        """Of each CPU's ring; 0: the program captures nothing."""

        self.blocks = loaded.map("blocks")
        self.capture_rings = loaded.map("capture_rings")
        self.tap = loaded.map("tap")
        self._own = loaded.map("own_addresses")
        self._own_addresses: set[bytes] = set()
        self._per_cpu = loaded.map("per_cpu")
        self._unique_sources = loaded.map("unique_sources")
        tables = loaded.map("tables")
        block = loaded.map(".data.control")
        self._tables = mmap.mmap(tables.fd, _rounded(2 * _ELEMENT))
        self._control_octets = mmap.mmap(block.fd, _rounded(block.value_size))
        self.control = ffi.cast("struct control *", ffi.from_buffer(self._control_octets))
        ffi.buffer(self.control.ip_id_key)[:] = os.urandom(16)
        self.set_sources_key(os.urandom(16))

    @classmethod
    def load(
        cls, elf: bytes | None = None, *, tap: bool = False, cells: int | None = None, capture_chunks: int = 0
    ) -> Self:
        """Have the kernel verify the program and make its maps; FastPathUnavailable says what is missing.

        *cells*: descriptor of the limits' cells (admission.make_cells); None: without limits.
        *capture_chunks*: of each CPU's ring, a power of two (64 KiB each); 0: nothing can be captured, at no cost.
        """
        try:
            loaded = libbpf.BpfObject.open(elf if elf is not None else built_object(), "rootsrv")
        except libbpf.BpfUnavailable as error:
            raise FastPathUnavailable(str(error)) from error
        try:
            libbpf.possible_cpus()  # a host that does not say it is not the object's fault
            if not tap:
                loaded.resize_map("tap", mmap.PAGESIZE)
            try:
                admission.prepare(loaded, cells)
                if capture_chunks:
                    prepare_capture(loaded, capture_chunks)
            except libbpf.BpfError as error:
                raise FastPathUnavailable(f"{_OTHER_SOURCES} ({error.strerror})") from error
            loaded.load()
            _check_layout(loaded)
            return cls(loaded, cells, capture_chunks)
        except FastPathUnavailable:
            loaded.close()
            raise
        except OSError as error:
            loaded.close()
            raise FastPathUnavailable(f"{error.strerror}") from error

    def close(self) -> None:
        """Let go of program and maps; attachments that the kernel holds keep them alive."""
        self.control = ffi.NULL
        self.admission.close()
        self._object.close()

    def descriptor(self, name: str) -> int:
        """The descriptor of program *name* (rootsrv_xdp, rootsrv_tc, xdp_test, tc_test)."""
        return self._object.program(name)

    # ── settings ────────────────────────────────────────────────────────────────────────────────────────────────

    def set_service(self, addresses: Sequence[str], port: int) -> list[str]:
        """Answer at these addresses and this port; returns those that are too many, whose queries are passed."""
        left_out: list[str] = []
        for family in (4, 6):
            of_family = [each for each in addresses if ipaddress.ip_address(each).version == family]
            known = of_family[: constant("MAX_SERVICE_ADDRESSES")]
            left_out += of_family[len(known) :]
            octets = b"".join(ipaddress.ip_address(each).packed for each in known)
            ffi.buffer(getattr(self.control, f"service_ipv{family}"))[: len(octets)] = octets
            setattr(self.control, f"service_ipv{family}_count", len(known))
        self.control.port = _network16(port)
        return left_out

    def set_own_addresses(self, addresses: Iterable[str]) -> None:
        """All addresses of this host, however many: packets from them are for the stack to judge."""
        wanted = {_mapped(ipaddress.ip_address(each)) for each in addresses}
        if wanted == self._own_addresses:
            return
        filtered = bytearray(constant("OWN_FILTER_BITS") // 8)
        for key in wanted:
            place = _filter_place(key)
            filtered[place // 8] |= 1 << place % 8
        room = constant("MAX_OWN_ADDRESSES")
        # At every instant the new addresses are refused, or more: first the filter alone decides, then the map is made.
        self.control.own_overflow = 1
        ffi.buffer(self.control.own_filter)[:] = bytes(filtered)
        for key in set(self._own.keys()) - wanted:
            self._own.delete(key)
        for key in sorted(wanted)[:room]:
            self._own.update(key, bytes(4))
        self.control.own_overflow = len(wanted) > room
        self._own_addresses = wanted

    def set_responses(self, settings: ResponderSettings) -> None:
        """Respond as the Responder does with *settings*.  Not while queries are answered (`pass_everything`)."""
        control = self.control
        control.max_udp_response = settings.max_udp_response_octets
        nsid = b""
        if settings.nsid:
            nsid = b"\0\3" + len(settings.nsid).to_bytes(2, "big") + settings.nsid
        if len(nsid) > len(control.nsid_option):
            raise FastPathUnavailable(f"an NSID of {len(settings.nsid)} octets; the program has room for 128")
        ffi.buffer(control.nsid_option)[: len(nsid)] = nsid
        control.nsid_option_size = len(nsid)
        secrets: tuple[bytes, ...] = ()
        if settings.cookies is not None:
            secrets = (settings.cookies.secret, *settings.cookies.previous_secrets)
        if len(secrets) > len(control.secrets[0]):
            raise FastPathUnavailable(f"{len(secrets)} cookie secrets; the program knows {len(control.secrets[0])}")
        unused = 1 - control.secret_set
        ffi.buffer(control.secrets[unused])[: 16 * len(secrets)] = b"".join(secrets)
        control.secret_count[unused] = len(secrets)
        control.require_server_cookie = settings.require_server_cookie
        control.secret_set = unused

    def set_sources_key(self, key: bytes) -> None:
        """Note unique sources under *key* (page/unique_sources.py); before anything is attached."""
        ffi.buffer(self.control.sources_key)[:] = key

    def set_interfaces(self, interfaces: Iterable[Interface]) -> None:
        """Answer what comes in on these interfaces."""
        records = self.control.interfaces
        chosen = list(interfaces)
        if not any(each.ifindex == TEST_IFINDEX for each in chosen):
            # Not attached there; but the kernel says of test runs that they came in there.
            chosen.append(Interface(TEST_IFINDEX, 65_536, bytes(6), virtual=True, loopback=True))
        if len(chosen) > len(records):
            raise FastPathUnavailable(f"{len(chosen)} interfaces; the program knows {len(records)}")
        for position, record in enumerate(records):
            if position >= len(chosen):
                record.ifindex = 0
                continue
            each = chosen[position]
            record.mtu = each.mtu
            ffi.buffer(record.mac)[:] = each.mac
            flags = constant("INTERFACE_VIRTUAL") if each.virtual else 0
            record.flags = flags | (constant("INTERFACE_LOOPBACK") if each.loopback else 0)
            record.ifindex = each.ifindex

    def set_blocks(self, blocks: Sequence[BlockWords]) -> None:
        """Drop what comes from these prefixes, each until its time; in place of all blocks before."""
        wanted = {}
        for upper, lower, size, _ in blocks:
            # The longest prefix alone is looked at there: one that lies in others lasts as long as the last of them.
            until = max(other[3] for other in blocks if other[2] <= size and covers(other, upper, lower))
            key = struct.pack("=I", size) + upper.to_bytes(8, "big") + lower.to_bytes(8, "big")
            wanted[key] = struct.pack("=Q", until)
        for key in set(self.blocks.keys()) - wanted.keys():
            self.blocks.delete(key)
        for key, value in wanted.items():
            self.blocks.update(key, value)
        self.control.blocks = len(wanted)

    # ── publishing ──────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def active(self) -> int:
        """The generation (0 or 1) that answers."""
        return int(self.control.active)

    def stage(self, table: AnswerTable) -> int:
        """Copy *table* into the generation that is not active, and return that; TableUnfit when it cannot be."""
        check_table(table)
        generation = 1 - self.active
        for zone in range(constant("MAX_ZONES")):
            self.control.answer_until[generation][zone] = 0
        _wait_for_packets_under_way()
        start = generation * _ELEMENT
        self._tables[start : start + len(table.octets)] = table.octets
        self.control.test_generation = generation
        return generation

    def activate(self, generation: int, answer_until: Sequence[int]) -> None:
        """Answer from *generation*, for each zone until the given nanoseconds on CLOCK_BOOTTIME: one store."""
        self.renew(answer_until, generation)
        self.control.active = generation

    def renew(self, answer_until: Sequence[int], generation: int | None = None) -> None:
        """Grant the active (or the given) generation more time, per zone; 0 takes it away."""
        until = self.control.answer_until[self.active if generation is None else generation]
        for zone in range(constant("MAX_ZONES")):
            until[zone] = answer_until[zone] if zone < len(answer_until) else 0
        self.note_owner()

    def pass_everything(self) -> None:
        """Answer nothing until `renew`; returns when nothing is being answered any more."""
        self.renew(())
        _wait_for_packets_under_way()

    def note_owner(self) -> None:
        """Let the next owner see that this one lives."""
        self.control.owner_seen = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def answer_until(self) -> tuple[int, ...]:
        """Per zone: until when the active generation answers, nanoseconds on CLOCK_BOOTTIME."""
        return tuple(self.control.answer_until[self.active])

    def publish_time(self, wall_seconds: float, day: int | None = None) -> None:
        """Tell the program the time that cookies carry, and which day's registers of unique sources to use.

        *day*: the one that is counted (page/day.py); None = that of *wall_seconds*.
        """
        self.control.wall_seconds = int(wall_seconds) & 0xFFFFFFFF
        if day is None:
            day = day_of(wall_seconds)
        if day != self.control.day:
            for estimate in range(constant("REGISTER_SETS")):
                key = day % 2 * constant("REGISTER_SETS") + estimate
                self._unique_sources.update(key, bytes(constant("REGISTERS")))
            self.control.day = day

    @property
    def day(self) -> int:
        """UTC days since 1970 of the registers in use."""
        return int(self.control.day)

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────

    def counters(self, *, test_runs: bool = False) -> KernelCounters:
        """All CPUs' counters added up: of live packets, or of test runs."""
        start = 0 if test_runs else COUNTERS_OCTETS
        per_cpu = self._per_cpu.lookup_per_cpu(0)
        return KernelCounters.total([octets[start : start + COUNTERS_OCTETS] for octets in per_cpu])

    def notes(self) -> list[bytes]:
        """Notes of queries since the last call (admission/samples.py)."""
        per_cpu = self._per_cpu.lookup_per_cpu(0)
        live = [KernelCounters(octets[COUNTERS_OCTETS : 2 * COUNTERS_OCTETS]) for octets in per_cpu]
        return self.admission.notes([int(each.noted) for each in live])

    def memory_octets(self) -> int:
        """Kernel memory of all maps and programs."""
        return self._object.memory_octets()

    def unique_sources(self, day: int) -> list[bytes]:
        """The registers of *day* (days since 1970, today or yesterday), per estimate, merged over all CPUs."""
        merged = []
        for estimate in range(constant("REGISTER_SETS")):
            per_cpu = self._unique_sources.lookup_per_cpu(day % 2 * constant("REGISTER_SETS") + estimate)
            merged.append(unique_sources.merge(per_cpu))
        return merged


_OTHER_SOURCES = "the BPF program was built from other sources than these (make bpf)"


def prepare_capture(opened: libbpf.BpfObject, chunks: int) -> None:
    """Let the program that is about to be loaded capture, with rings of so many *chunks* for each CPU."""
    units = chunks * constant("CAPTURE_CHUNK_UNITS")
    opened.set_constants(".rodata.capture", struct.pack("=I", units))
    opened.resize_map("capture_rings", libbpf.possible_cpus())
    # A ring's head, its units, and an octet that tells of each (bpf/capture.h).
    octets = (units + constant("CAPTURE_BEYOND")) * (constant("CAPTURE_UNIT") + 1)
    opened.resize_values("capture_rings", ffi.sizeof("struct capture_ring") + octets)


def _check_layout(loaded: libbpf.BpfObject) -> None:
    """FastPathUnavailable for a program that was compiled with other headers than Python reads."""
    try:
        built = loaded.map(".rodata.layout").lookup(0)
    except libbpf.BpfError:
        built = None  # from before the headers were told apart
    if built is None or int.from_bytes(built[:8], "little") != LAYOUT:
        raise FastPathUnavailable(_OTHER_SOURCES)


def check_table(table: AnswerTable) -> None:
    """TableUnfit when the program could not answer from *table* as the Responder does."""
    if len(table.octets) > TABLE_ROOM:
        raise TableUnfit(f"an answer table of {len(table.octets)} octets; the kernel has room for {TABLE_ROOM}")
    if (count := sum(1 for _ in table.names())) > INDEX_LIMIT:
        raise TableUnfit(f"{count} names; the kernel finds {INDEX_LIMIT}")
    if len(table.zones) > constant("MAX_ZONES"):
        raise TableUnfit(f"{len(table.zones)} zones; the program knows {constant('MAX_ZONES')}")
    if len(table.zones) > 1 and not any(name.flags & NAME_HAS_HOST_ZONE for name in table.names()):
        raise TableUnfit("the host zone does not lie below a delegation of the root zone")


def _wait_for_packets_under_way() -> None:
    """Return when every packet that a CPU was working on at the time of the call is done."""
    number = _SYS_MEMBARRIER.get(os.uname().machine)
    libc = ctypes.CDLL(None, use_errno=True)
    if number is None or libc.syscall(number, _MEMBARRIER_GLOBAL, 0, 0) != 0:
        # Not known here, or refused (nohz_full): a packet takes microseconds.
        time.sleep(0.1)


def _mapped(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    """As the map own_addresses has it: IPv4 addresses mapped (RFC 4291 §2.5.5.2)."""
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def _filter_place(key: bytes) -> int:
    """Which bit of control.own_filter an address has (is_own in packet.h)."""
    upper, lower = struct.unpack("<2Q", key)
    hashed: int = ((upper * 0x9E3779B97F4A7C15 & _WORD) ^ lower) * 0xFF51AFD7ED558CCD & _WORD
    return hashed >> 52


def _rounded(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _network16(number: int) -> int:
    return int.from_bytes(number.to_bytes(2, "big"), "little")
