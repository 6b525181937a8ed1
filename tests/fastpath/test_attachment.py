"""Whose program is taken off a hook and whose is not, on a wire of a namespace's own."""

import ctypes
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyroute2
import pytest

from rootsrv.fastpath import libbpf, tcx
from rootsrv.fastpath.attachment import (
    PROGRAMS,
    Attachment,
    CannotAttach,
    FoundInterface,
    HookName,
    attach,
    attached_idents,
    find_interface,
)
from rootsrv.fastpath.program import Program
from tests.fastpath.conftest import require_program
from tests.fastpath.site import WIRE
from tests.network import Host, network

HOOKS: tuple[HookName, ...] = ("xdp", "tcx", "clsact")
_CLONE_NEWNET = 0x40000000
_SYS_CAPSET = 126
_VERSION_3, _BPF_CAPABILITIES = 0x20080522, (12, 38, 39)  # CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF (linux/capability.h)


@dataclass
class Wire:
    """One end of it, and two programs like those of two instances."""

    host: Host
    ours: Program
    others: Program

    def __call__(self, work: Callable[[FoundInterface], None], *, as_the_unit: bool = False) -> None:
        """Do *work* there; *as_the_unit*: with no more capabilities than the role serve has under systemd."""
        failed: list[BaseException] = []

        def do() -> None:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                with open(f"/run/netns/{self.host.name}") as namespace:
                    assert libc.setns(namespace.fileno(), _CLONE_NEWNET) == 0
                if as_the_unit:
                    low, high = (sum(1 << c % 32 for c in _BPF_CAPABILITIES if c // 32 == word) for word in (0, 1))
                    head = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
                    assert libc.syscall(_SYS_CAPSET, head, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)) == 0
                work(find_interface(WIRE))
            except BaseException as error:
                failed.append(error)

        # A thread may enter a namespace, and put capabilities down, on its own.
        thread = threading.Thread(target=do)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]


@pytest.fixture(scope="module")
def programs() -> Iterator[tuple[Program, Program]]:
    require_program()
    ours, others = Program.load(), Program.load()
    yield ours, others
    ours.close()
    others.close()


@pytest.fixture
def wire(programs: tuple[Program, Program]) -> Iterator[Wire]:
    for program in programs:
        program.note_owner()  # nobody takes either for what a dead owner has left behind
    with network() as made:
        server, client = made.host("server"), made.host("client")
        made.link(server, client, WIRE, (("192.0.2.53/24", "192.0.2.7/24"),))
        server.run("tc", "qdisc", "add", "dev", WIRE, "clsact", check=False)
        yield Wire(server, *programs)


def put(program: Program, interface: FoundInterface, hook: HookName, *, keep: bool, **more: bool) -> Attachment:
    return attach(program, interface, hook, replace=more.get("replace", False), keep=keep)


def take_off(interface: FoundInterface, hook: HookName, attached: Attachment) -> None:
    """As somebody else would, with programs of his own."""
    ifindex, lib = interface.kernel.ifindex, libbpf.library()
    if hook == "xdp":
        assert lib.bpf_xdp_detach(ifindex, 0, libbpf.ffi.NULL) == 0
    elif hook == "tcx":
        tcx.remove(ifindex, attached.program)


@pytest.mark.parametrize("hook", HOOKS)
def test_who_finds_another_program_in_the_place_of_ours_leaves_it_there(wire: Wire, hook: HookName) -> None:
    def work(interface: FoundInterface) -> None:
        ours = put(wire.ours, interface, hook, keep=True)
        take_off(interface, hook, ours)
        theirs = put(wire.others, interface, hook, keep=True, replace=hook == "clsact")
        assert (ours.is_there(), theirs.is_there()) == (False, True)
        ours.detach()
        assert theirs.is_there()
        theirs.detach()
        assert not theirs.is_there()

    wire(work)


def test_a_program_that_hangs_on_a_link_is_not_replaced_and_the_error_names_it(wire: Wire) -> None:
    def work(interface: FoundInterface) -> None:
        theirs = put(wire.others, interface, "xdp", keep=False)
        with pytest.raises(CannotAttach, match=r"program rootsrv_xdp \(id \d+\) stays on its xdp hook: .*busy"):
            put(wire.ours, interface, "xdp", keep=False, replace=True)
        assert theirs.is_there()
        theirs.detach()

    wire(work)


def test_a_program_in_the_stacks_own_xdp_is_named_and_replaced_when_asked(wire: Wire) -> None:
    def work(interface: FoundInterface) -> None:
        ifindex, lib = interface.kernel.ifindex, libbpf.library()
        descriptor = wire.others.descriptor(PROGRAMS["xdp"])
        assert lib.bpf_xdp_attach(ifindex, descriptor, libbpf.XDP_GENERIC_MODE, libbpf.ffi.NULL) == 0
        with pytest.raises(CannotAttach, match=r"program rootsrv_xdp \(id \d+\) is on its xdp hook .*--replace"):
            put(wire.ours, interface, "xdp", keep=False)
        ours = put(wire.ours, interface, "xdp", keep=False, replace=True)
        assert attached_idents(ifindex, "xdp") == [ours.program]
        ours.detach()

    wire(work)


@pytest.mark.parametrize("hook", HOOKS)
def test_the_capabilities_of_the_unit_are_enough_to_take_off_what_stays(wire: Wire, hook: HookName) -> None:
    def work(interface: FoundInterface) -> None:
        ifindex = interface.kernel.ifindex
        ours = put(wire.ours, interface, hook, keep=True)
        ours.detach()
        assert attached_idents(ifindex, hook) == []
        dead = put(wire.others, interface, hook, keep=True)
        ours = attach(wire.ours, interface, hook, replace=False, keep=True, left_behind=[dead.program])
        assert attached_idents(ifindex, hook) == [ours.program]
        ours.detach()
        assert attached_idents(ifindex, hook) == []

    wire(work, as_the_unit=True)


def test_at_tcx_each_is_taken_off_by_its_number_wherever_it_stands(wire: Wire) -> None:
    def work(interface: FoundInterface) -> None:
        ifindex = interface.kernel.ifindex
        three = [Program.load() for _ in range(3)]
        for place in (1, 2, 0):
            made = [put(each, interface, "tcx", keep=True) for each in three[:1]]
            for each in three[1:]:  # without a look at who is there, as another instance without the capability
                descriptor = each.descriptor(PROGRAMS["tcx"])
                assert libbpf.library().bpf_prog_attach(descriptor, ifindex, libbpf.ATTACH_TCX_INGRESS, 0) == 0
            there = attached_idents(ifindex, "tcx")
            assert (len(there), there[0]) == (3, made[0].program)
            tcx.remove(ifindex, there[place])
            assert attached_idents(ifindex, "tcx") == [each for each in there if each != there[place]]
            tcx.remove(ifindex, there[place])  # nothing, the second time
            for each in attached_idents(ifindex, "tcx"):
                tcx.remove(ifindex, each)
        for each in three:
            each.close()

    wire(work)


def test_a_queueing_discipline_that_somebody_took_away_with_our_filter_is_no_fault(wire: Wire) -> None:
    def work(interface: FoundInterface) -> None:
        wire.host.run("tc", "qdisc", "del", "dev", WIRE, "clsact")
        ours = put(wire.ours, interface, "clsact", keep=False)
        wire.host.run("tc", "qdisc", "del", "dev", WIRE, "clsact")
        assert not ours.is_there()
        ours.detach()
        again = put(wire.ours, interface, "clsact", keep=False)
        wire.host.ip("link", "del", WIRE)
        again.detach()

    wire(work)


def test_an_interface_that_goes_while_it_is_looked_at_cannot_be_attached_to(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Netlink(pyroute2.IPRoute):  # type: ignore[misc]
        def get_links(self, *wanted: int) -> object:
            wire.host.ip("link", "del", WIRE)
            return self.__getattr__("get_links")(*wanted)

    def work(interface: FoundInterface) -> None:
        monkeypatch.setattr(pyroute2, "IPRoute", Netlink)
        with pytest.raises(CannotAttach, match="wire: No such device"):
            find_interface(WIRE)

    wire(work)
