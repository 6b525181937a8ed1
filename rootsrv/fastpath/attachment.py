"""Where the program is attached: one interface, one hook; taken off again when its owner is gone.

Nothing that is attached already is replaced without being asked: a program of somebody else's is named in the error.
"""
# Theory of operation
# -------------------
# Three hooks, best first:
#
#   xdp      native XDP, in the driver: the fastest, but the driver must leave room for replies to grow
#   tcx      tc ingress as a BPF link (Linux 6.6 and later): other programs may stand beside it
#   clsact   tc ingress as a filter (below 6.6)
#
# xdp and tcx are held by a *link*, which the kernel takes away with the last descriptor of it, so with its owner; a
# clsact filter stays when its owner is killed, and only `answer_until` ends its answers.  With `keep` the other two are
# attached without a link and stay likewise.  What an owner that is gone has left behind is taken away by the next one.
# It is known by its number, which the owner had noted; without a note by the program's name and by `owner_seen` in its
# control block, but only CAP_SYS_ADMIN may read those of a program that one does not hold.

import contextlib
import errno
import ipaddress
import os
import socket
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rootsrv.fastpath import libbpf, tcx
from rootsrv.fastpath.layout import ffi
from rootsrv.fastpath.program import Interface, Program

if TYPE_CHECKING:
    from pyroute2 import IPRoute

HookName = Literal["xdp", "tcx", "clsact"]
PROGRAMS: dict[HookName, str] = {"xdp": "rootsrv_xdp", "tcx": "rootsrv_tc", "clsact": "rootsrv_tc"}

_OWNER_GONE_SECONDS = 5.0  # an owner renews every second

_ARPHRD_ETHERNET, _ARPHRD_LOOPBACK = 1, 772
_XDP_IF_NOEXIST = 1
_XDP_MODES = (libbpf.XDP_DRIVER_MODE, libbpf.XDP_GENERIC_MODE, libbpf.XDP_HARDWARE_MODE)
_CLSACT_HANDLE, _CLSACT_PRIORITY = 1, 53

# Interfaces whose frames may come from a sender on this very host, with the checksum left to be finished.
_VIRTUAL_KINDS = {"veth", "dummy", "netkit", "bridge", "tun", "ifb"}
_VIRTUAL_DRIVERS = {"virtio_net", "xen_netfront", "hv_netvsc"}

# Native XDP is there, but a packet that came through a socket lies in a buffer without room for a reply.
_NO_TAILROOM_KINDS = {"veth", "tun", "netkit"}


class CannotAttach(Exception):
    """The program cannot be attached to this interface; the text names the cause."""


@dataclass(frozen=True, slots=True)
class FoundInterface:
    """An interface as it is now."""

    name: str
    kernel: Interface
    kind: str
    """`veth`, `bond` …; empty for hardware."""

    driver: str
    is_loopback: bool

    def why_no_xdp(self) -> str:
        """Why native XDP is not the way here; empty if it may be."""
        if self.is_loopback:
            return "the loopback interface has no native XDP"
        if self.kind in _NO_TAILROOM_KINDS:
            return f"{self.kind} leaves no room for replies to grow in"
        return ""


@contextlib.contextmanager
def _netlink() -> Iterator["IPRoute"]:
    """A netlink socket; whatever the kernel refuses is an OSError."""
    from pyroute2 import IPRoute  # it takes 0.1 s, for which no start waits that has no interfaces configured
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as opened:
        try:
            yield opened
        except NetlinkError as error:  # not an OSError: an interface, say, that went away between two questions
            raise OSError(error.code, os.strerror(error.code)) from error


def find_interface(name: str) -> FoundInterface:
    """The facts about interface *name* of this network namespace; CannotAttach when it is not there or unsuitable."""
    try:
        with _netlink() as netlink:
            found = netlink.link_lookup(ifname=name)
            if not found:
                raise CannotAttach(f"{name}: no such interface")
            (message,) = netlink.get_links(found[0])
    except OSError as error:
        raise CannotAttach(f"{name}: {error.strerror or error}") from error
    link_type = message["ifi_type"]
    if link_type not in (_ARPHRD_ETHERNET, _ARPHRD_LOOPBACK):
        raise CannotAttach(f"{name}: not an Ethernet interface (type {link_type})")
    is_loopback = link_type == _ARPHRD_LOOPBACK
    info = message.get("linkinfo")
    kind = str(info.get("kind") or "") if info is not None else ""
    driver = _driver(name)
    mac = bytes.fromhex((message.get("address") or "00:00:00:00:00:00").replace(":", ""))
    virtual = is_loopback or kind in _VIRTUAL_KINDS or driver in _VIRTUAL_DRIVERS
    kernel = Interface(int(message["index"]), int(message.get("mtu")), mac, virtual=virtual, loopback=is_loopback)
    return FoundInterface(name, kernel, kind, driver, is_loopback)


def own_addresses() -> list[str]:
    """All addresses of this network namespace, and the IPv4 broadcast addresses of its links.

    No host sends from a broadcast address (RFC 1122 §3.2.1.3), and no socket of ours would answer to one.
    """
    found: set[str] = set()
    with _netlink() as netlink:
        for message in netlink.get_addr():
            address = message.get("local") or message.get("address")
            found |= {str(each) for each in (address, message.get("broadcast")) if each}
            if address and message["family"] == socket.AF_INET and message["prefixlen"] < 31:  # RFC 3021
                link = ipaddress.ip_interface(f"{address}/{message['prefixlen']}").network
                found.add(str(link.broadcast_address))
    return sorted(found)


def _driver(name: str) -> str:
    try:
        return os.path.basename(os.readlink(f"/sys/class/net/{name}/device/driver"))
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """A program that the kernel has."""

    ident: int
    name: str
    map_ids: tuple[int, ...]

    def __str__(self) -> str:
        return f"program {self.name or '(without a name)'} (id {self.ident})"


def program_info(ident: int) -> ProgramInfo:
    """What the kernel says of the program with this id; OSError when it is gone, PermissionError without privilege."""
    descriptor = libbpf.library().bpf_prog_get_fd_by_id(ident)
    if descriptor < 0:
        raise OSError(ffi_errno(), f"program {ident}: {os.strerror(ffi_errno())}")
    try:
        return program_of(descriptor)
    finally:
        os.close(descriptor)


def program_of(descriptor: int) -> ProgramInfo:
    """What the kernel says of the program that is open as *descriptor*; OSError when it says nothing."""
    maps = libbpf.ffi.new("uint32_t[64]")
    info = libbpf.ffi.new("struct bpf_prog_info *")
    info.nr_map_ids, info.map_ids = 64, int(libbpf.ffi.cast("uintptr_t", maps))
    size = libbpf.ffi.new("uint32_t *", libbpf.ffi.sizeof("struct bpf_prog_info"))
    if libbpf.library().bpf_obj_get_info_by_fd(descriptor, info, size):
        raise OSError(ffi_errno(), f"program: {os.strerror(ffi_errno())}")
    name = libbpf.ffi.string(info.name).decode(errors="replace")
    return ProgramInfo(int(info.id), name, tuple(maps[0 : min(64, info.nr_map_ids)]))


def ffi_errno() -> int:
    """errno of the latest call into libbpf."""
    return int(libbpf.ffi.errno)


def was_left_behind(info: ProgramInfo) -> bool:
    """Whether this is a program of ours whose owner is gone."""
    if info.name not in PROGRAMS.values():
        return False
    lib = libbpf.library()
    for ident in info.map_ids:
        descriptor = lib.bpf_map_get_fd_by_id(ident)
        if descriptor < 0:
            continue
        try:
            described = libbpf.ffi.new("struct bpf_map_info *")
            size = libbpf.ffi.new("uint32_t *", libbpf.ffi.sizeof("struct bpf_map_info"))
            if lib.bpf_obj_get_info_by_fd(descriptor, described, size):
                continue
            if not libbpf.ffi.string(described.name).startswith(b".data.control"):
                continue
            if described.value_size < ffi.sizeof("struct control"):
                return True  # of an earlier version
            value = libbpf.ffi.new("char[]", described.value_size)
            if lib.bpf_map_lookup_elem(descriptor, libbpf.ffi.new("uint32_t *", 0), value):
                continue
            control = ffi.cast("struct control *", ffi.from_buffer(libbpf.ffi.buffer(value)))
            seen = int(control.owner_seen)
            return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - seen > _OWNER_GONE_SECONDS * 1e9
        finally:
            os.close(descriptor)
    return False


class Attachment:
    """The program on one hook of one interface; made by `attach`."""

    def __init__(
        self, interface: FoundInterface, hook: HookName, program: int, link: int, made_clsact: bool = False
    ) -> None:
        """*program*: the kernel's number of it."""
        self._program = program
        self.interface = interface
        self.hook = hook
        self._link = link
        self._made_clsact = made_clsact

    @property
    def program(self) -> int:
        """The kernel's number of the program."""
        return self._program

    @property
    def ifindex(self) -> int:
        """The interface's number."""
        return self.interface.kernel.ifindex

    def is_there(self) -> bool:
        """Whether the kernel still has it; links vanish with their interface, filters when somebody removes them."""
        try:
            if socket.if_nametoindex(self.interface.name) != self.ifindex:
                return False
        except OSError:
            return False
        return self._program in attached_idents(self.ifindex, self.hook)

    def detach(self) -> None:
        """Take the program off; harmless when it or the interface is gone, or another program in its place."""
        if self._link >= 0:
            os.close(self._link)
            self._link = -1
            return
        with contextlib.suppress(OSError):
            _remove(self.ifindex, self.hook, self._program)
        if self._made_clsact:
            _remove_clsact_if_empty(self.ifindex)


def attached_programs(ifindex: int, hook: HookName) -> Iterator[ProgramInfo]:
    """The programs on a hook, ours and others'; nothing but its number is known of one that we may not look at."""
    for ident in attached_idents(ifindex, hook):
        try:
            yield program_info(ident)
        except PermissionError:  # only CAP_SYS_ADMIN may open a program that it does not hold already
            yield ProgramInfo(ident, "", ())
        except OSError:
            continue  # gone meanwhile


def attached_idents(ifindex: int, hook: HookName) -> list[int]:
    """The kernel's numbers of the programs on a hook."""
    lib = libbpf.library()
    idents: list[int] = []
    if hook == "xdp":
        idents = [ident for ident, _ in _xdp_programs(ifindex)]
    elif hook == "tcx":
        with contextlib.suppress(OSError):
            idents = tcx.idents(ifindex)
    else:
        hooked, options = _clsact(ifindex)
        if lib.bpf_tc_query(hooked, options) == 0:
            idents = [options.prog_id]
    return idents


def _xdp_programs(ifindex: int) -> Iterator[tuple[int, int]]:
    """The kernel's numbers of the programs in XDP, and each one's mode: the driver's, the stack's or the card's."""
    number = libbpf.ffi.new("uint32_t *")
    for mode in _XDP_MODES:
        if libbpf.library().bpf_xdp_query_id(ifindex, mode, number) == 0 and number[0]:
            yield number[0], mode


def attach(
    program: Program,
    interface: FoundInterface,
    hook: HookName,
    *,
    replace: bool,
    keep: bool,
    left_behind: Collection[int] = (),
) -> Attachment:
    """Attach *program*; CannotAttach says what is in the way.

    *replace*: take away whoever else is there (xdp, or our place among the clsact filters).  *keep*: stay when the
    owner is gone.  *left_behind*: numbers of programs known to be a dead owner's.
    """
    ifindex = interface.kernel.ifindex
    inherited = False
    for info in list(attached_programs(ifindex, hook)):
        ours = info.name in PROGRAMS.values()
        orphaned = info.ident in left_behind or was_left_behind(info)
        if orphaned or (replace and (hook != "tcx" or ours)):
            try:
                _remove(ifindex, hook, info.ident)
            except OSError as error:  # it hangs on a link, say, which only its owner can end
                raise CannotAttach(f"{interface.name}: {info} stays on its {hook} hook: {error.strerror}") from error
            inherited |= orphaned
        elif hook != "tcx" or ours:
            raise CannotAttach(f"{interface.name}: {info} is on its {hook} hook (rootsrv fastpath attach --replace)")
    descriptor = program.descriptor(PROGRAMS[hook])
    try:
        ident = program_of(descriptor).ident
        if hook == "clsact":
            # The qdisc that a dead owner's filter was in may be of its making: it goes with us, if nobody else uses it.
            made_clsact = _attach_clsact(ifindex, descriptor) or inherited
            return Attachment(interface, hook, ident, -1, made_clsact)
        if keep:
            _attach_without_link(ifindex, descriptor, hook)
            return Attachment(interface, hook, ident, -1)
        kind = libbpf.ATTACH_XDP if hook == "xdp" else libbpf.ATTACH_TCX_INGRESS
        flags = libbpf.XDP_DRIVER_MODE if hook == "xdp" else 0
        return Attachment(interface, hook, ident, libbpf.link(descriptor, ifindex, kind, flags))
    except OSError as error:
        if hook == "tcx" and error.errno == errno.EINVAL:
            raise CannotAttach(f"{interface.name}: this kernel has no tcx (it came with Linux 6.6)") from error
        if hook == "xdp" and error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
            raise CannotAttach(f"{interface.name}: no native XDP in its driver {interface.driver or '?'}") from error
        if hook == "xdp" and error.errno == errno.ERANGE:
            # The program takes frames in one buffer only (no xdp.frags).
            mtu = interface.kernel.mtu
            raise CannotAttach(f"{interface.name}: its MTU of {mtu} is more than XDP takes there") from error
        if error.errno == errno.EBUSY:
            raise CannotAttach(f"{interface.name}: another program is on its {hook} hook") from error
        raise CannotAttach(f"{interface.name}: {hook}: {error.strerror}") from error


def _attach_without_link(ifindex: int, descriptor: int, hook: HookName) -> None:
    lib = libbpf.library()
    if hook == "xdp":
        failed = lib.bpf_xdp_attach(ifindex, descriptor, libbpf.XDP_DRIVER_MODE | _XDP_IF_NOEXIST, libbpf.ffi.NULL)
    else:
        failed = lib.bpf_prog_attach(descriptor, ifindex, libbpf.ATTACH_TCX_INGRESS, 0)
    if failed:
        raise OSError(ffi_errno(), os.strerror(ffi_errno()))


def _clsact(ifindex: int) -> tuple[Any, Any]:
    hook = libbpf.ffi.new("struct bpf_tc_hook *")
    hook.sz, hook.ifindex, hook.attach_point = libbpf.ffi.sizeof("struct bpf_tc_hook"), ifindex, libbpf.TC_INGRESS
    options = libbpf.ffi.new("struct bpf_tc_opts *")
    options.sz = libbpf.ffi.sizeof("struct bpf_tc_opts")
    options.handle, options.priority = _CLSACT_HANDLE, _CLSACT_PRIORITY
    return hook, options


def _attach_clsact(ifindex: int, descriptor: int) -> bool:
    """Add our filter; returns whether the clsact qdisc had to be made for it."""
    lib = libbpf.library()
    hook, options = _clsact(ifindex)
    made = bool(lib.bpf_tc_hook_create(hook) == 0)
    if not made and ffi_errno() != errno.EEXIST:
        raise OSError(ffi_errno(), os.strerror(ffi_errno()))
    options.prog_fd = descriptor
    if lib.bpf_tc_attach(hook, options):
        number = ffi_errno()
        if made:
            _remove_clsact_if_empty(ifindex)
        raise OSError(number, os.strerror(number))
    return made


def _remove(ifindex: int, hook: HookName, ident: int) -> None:
    """Take the program with this number off a hook; nothing if another is there, or none.  OSError: it stays."""
    lib, failed = libbpf.library(), 0
    if hook == "tcx":
        tcx.remove(ifindex, ident)
    elif hook == "xdp":
        for mode in [mode for each, mode in _xdp_programs(ifindex) if each == ident]:
            failed = lib.bpf_xdp_detach(ifindex, mode, libbpf.ffi.NULL)
    elif ident in attached_idents(ifindex, hook):
        failed = lib.bpf_tc_detach(*_clsact(ifindex))
    if failed:
        raise OSError(ffi_errno(), os.strerror(ffi_errno()))


def _remove_clsact_if_empty(ifindex: int) -> None:
    """Take away the clsact qdisc that was made for us, unless somebody else uses it by now."""
    with contextlib.suppress(OSError), _netlink() as netlink:
        parents = (0xFFFFFFF2, 0xFFFFFFF3)  # ingress, egress
        if not any(list(netlink.get_filters(ifindex, parent=parent)) for parent in parents):
            netlink.tc("del", "clsact", ifindex)
