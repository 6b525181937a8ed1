"""Limits, shed rules and notes of queries in the kernel: what the workers do in rootsrv/admission/gate.py."""

import mmap
import struct
from collections.abc import Callable
from typing import Any

from rootsrv.admission.blocks import words_of_prefix
from rootsrv.admission.limits import CELLS, CELLS_OCTETS, QUERIES, LimitSettings
from rootsrv.admission.samples import NOTE, ROOM
from rootsrv.admission.shed import Rule, pack_rules
from rootsrv.fastpath import libbpf
from rootsrv.fastpath.layout import ffi

_MODES = ("off", "dry-run", "on")
_SECOND_NS = 1_000_000_000
_NEVER = 1 << 63
_SYN_BURST_NS = 100_000_000
_CELL_OCTETS = CELLS_OCTETS // CELLS


def make_cells() -> int:
    """The descriptor of cells that kernel and workers can share; OSError where there can be no BPF map."""
    try:
        return libbpf.create_array("limit_cells", _CELL_OCTETS, CELLS)
    except libbpf.BpfUnavailable as error:
        raise OSError(0, str(error)) from error


def prepare(loading: libbpf.BpfObject, cells: int | None) -> None:
    """Before the program is loaded: with the cells of descriptor *cells*, or without limits."""
    if cells is None:
        loading.resize_map("limit_cells", 1)
    else:
        loading.reuse_map("limit_cells", cells)
    loading.set_constants(".rodata.admission", struct.pack("=I", cells is not None))
    loading.resize_map("query_notes", ROOM * libbpf.possible_cpus())


class KernelAdmission:
    """What the loaded program was told."""

    def __init__(self, loaded: libbpf.BpfObject, wait: Callable[[], None], cells: int | None) -> None:
        """*wait* returns when every packet that is under way now is done; *cells* as in `prepare`."""
        self._wait = wait
        self.has_limits = cells is not None
        block = loaded.map(".data.admission")
        self._octets = mmap.mmap(block.fd, -(-block.value_size // mmap.PAGESIZE) * mmap.PAGESIZE)
        self.words = ffi.cast("struct admission *", ffi.from_buffer(self._octets))
        self._exempt = loaded.map("exempt")
        notes = loaded.map("query_notes")
        cpus = notes.max_entries // ROOM
        self._notes = mmap.mmap(notes.fd, -(-notes.max_entries * NOTE.size // mmap.PAGESIZE) * mmap.PAGESIZE)
        self._read = [0] * cpus

    def close(self) -> None:
        """Let go of the program's memory."""
        self.words = ffi.NULL

    def change(self, document: dict[str, Any]) -> None:
        """From now on by *document* (Policy.to_document)."""
        words = self.words
        exempt = {
            struct.pack("=I", size) + upper.to_bytes(8, "big") + lower.to_bytes(8, "big")
            for upper, lower, size in map(words_of_prefix, document["exempt"])
        }
        for key in exempt:
            self._exempt.update(key, bytes(4))
        for key in set(self._exempt.keys()) - exempt:
            self._exempt.delete(key)

        settings = LimitSettings.from_document(document["limits"])
        mode = settings.mode if self.has_limits else "off"
        if mode == "off":
            words.limit_mode = 0
        words.burst = settings.burst_ns
        ffi.buffer(words.hash_key)[:] = settings.key
        for family, intervals in enumerate(settings.intervals[QUERIES]):
            for level, interval in enumerate(intervals):
                words.intervals[family][level] = interval
        words.limit_mode = _MODES.index(mode)

        # The set that is not in force may still be read by a packet that came before the last change.
        rules = tuple(map(Rule.from_document, document["rules"]))
        self._wait()
        unused = 1 - words.rule_set
        ffi.buffer(words.rules[unused])[:] = pack_rules(rules)
        words.rule_set = unused
        words.note_every = document["sample_every"]
        words.judging_until = _NEVER if mode != "off" else max((rule.until_ns for rule in rules), default=0)

    def set_syn_budget(self, each_second: int) -> None:
        """Let each CPU take so many SYNs a second in XDP, a tenth of a second's at once; 0: as many as come."""
        words = self.words
        words.syn_burst = max(_SYN_BURST_NS, 2 * _SECOND_NS // max(1, each_second))
        words.syn_interval = _SECOND_NS // each_second if each_second else 0

    def notes(self, written: list[int]) -> list[bytes]:
        """Notes since the last call; *written*: how many each CPU has written."""
        found = []
        for cpu, count in enumerate(written[: len(self._read)]):
            for number in range(max(self._read[cpu], count - ROOM), count):
                start = (cpu * ROOM + number % ROOM) * NOTE.size
                found.append(self._notes[start : start + NOTE.size])
            self._read[cpu] = count
        return found
