"""libbpf.so.1 through cffi: load an object, reach its programs and maps, attach, run on test packets.

Only what rootsrv and its benchmarks use.  Everything that the kernel refuses is a `BpfError` that says what was tried,
with the verifier's last words where there are any.
"""
# Over 400 lines: a quarter of it is what cffi reads, the library's declarations in C.

import contextlib
import errno
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rootsrv.process.c_declarations import declared

_DECLARATIONS = """
struct bpf_object;
struct bpf_program;
struct bpf_map;
struct bpf_object *bpf_object__open_mem(const void *octets, size_t size, const void *opts);
int bpf_object__load(struct bpf_object *);
void bpf_object__close(struct bpf_object *);
struct bpf_program *bpf_object__find_program_by_name(const struct bpf_object *, const char *);
struct bpf_program *bpf_object__next_program(const struct bpf_object *, struct bpf_program *);
struct bpf_map *bpf_object__next_map(const struct bpf_object *, const struct bpf_map *);
const char *bpf_program__name(const struct bpf_program *);
int bpf_program__fd(const struct bpf_program *);
int bpf_program__set_autoload(struct bpf_program *, bool);
int bpf_program__set_log_level(struct bpf_program *, uint32_t);
int bpf_program__set_log_buf(struct bpf_program *, char *, size_t);
const char *bpf_map__name(const struct bpf_map *);
int bpf_map__fd(const struct bpf_map *);
uint32_t bpf_map__type(const struct bpf_map *);
uint32_t bpf_map__key_size(const struct bpf_map *);
uint32_t bpf_map__value_size(const struct bpf_map *);
uint32_t bpf_map__max_entries(const struct bpf_map *);
int bpf_map__set_max_entries(struct bpf_map *, uint32_t);
int bpf_map__set_value_size(struct bpf_map *, uint32_t);
int bpf_map__set_initial_value(struct bpf_map *, const void *octets, size_t size);
int bpf_map__reuse_fd(struct bpf_map *, int fd);
int bpf_map_create(int type, const char *name, uint32_t key_size, uint32_t value_size, uint32_t max_entries,
                   const void *opts);
int bpf_map_lookup_elem(int fd, const void *key, void *value);
int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags);
int bpf_map_delete_elem(int fd, const void *key);
int bpf_map_get_next_key(int fd, const void *key, void *next_key);
int libbpf_num_possible_cpus(void);
void *libbpf_set_print(void *);
int bpf_enable_stats(int type);
int bpf_link_create(int prog_fd, int ifindex, int attach_type, const void *opts);
int bpf_obj_get_info_by_fd(int fd, void *info, uint32_t *size);
int bpf_prog_get_fd_by_id(uint32_t id);
int bpf_map_get_fd_by_id(uint32_t id);
int bpf_prog_attach(int prog_fd, int attachable, int attach_type, unsigned int flags);
int bpf_xdp_attach(int ifindex, int prog_fd, uint32_t flags, const void *opts);
int bpf_xdp_detach(int ifindex, uint32_t flags, const void *opts);
int bpf_xdp_query_id(int ifindex, int flags, uint32_t *prog_id);

struct bpf_map_create_opts {
    size_t sz; uint32_t rest[5]; uint32_t map_flags; uint64_t map_extra; uint32_t numa_node, map_ifindex;
};
struct bpf_link_create_opts { size_t sz; uint32_t flags; uint32_t rest[16]; };
struct bpf_test_run_opts {
    size_t sz;
    const void *data_in; void *data_out; uint32_t data_size_in; uint32_t data_size_out;
    const void *ctx_in; void *ctx_out; uint32_t ctx_size_in; uint32_t ctx_size_out;
    uint32_t retval; int repeat; uint32_t duration; uint32_t flags; uint32_t cpu; uint32_t batch_size;
};
int bpf_prog_test_run_opts(int prog_fd, struct bpf_test_run_opts *);

int bpf_raw_tracepoint_open(const char *name, int prog_fd);

struct bpf_tc_hook { size_t sz; int ifindex; int attach_point; uint32_t parent; };
struct bpf_tc_opts { size_t sz; int prog_fd; uint32_t flags; uint32_t prog_id; uint32_t handle; uint32_t priority; };
int bpf_tc_hook_create(struct bpf_tc_hook *);
int bpf_tc_hook_destroy(struct bpf_tc_hook *);
int bpf_tc_attach(const struct bpf_tc_hook *, struct bpf_tc_opts *);
int bpf_tc_detach(const struct bpf_tc_hook *, const struct bpf_tc_opts *);
int bpf_tc_query(const struct bpf_tc_hook *, struct bpf_tc_opts *);

struct bpf_prog_info {
    uint32_t type, id; uint8_t tag[8]; uint32_t jited_prog_len, xlated_prog_len;
    uint64_t jited_prog_insns, xlated_prog_insns, load_time;
    uint32_t created_by_uid, nr_map_ids; uint64_t map_ids; char name[16]; uint8_t rest[160];
};
struct bpf_map_info {
    uint32_t type, id, key_size, value_size, max_entries, map_flags; char name[16]; uint8_t rest[64];
};

typedef struct ring_buffer ring_buffer;
ring_buffer *ring_buffer__new(int map_fd, int (*sample)(void *context, void *data, size_t size), void *, const void *);
int ring_buffer__consume(ring_buffer *);
int ring_buffer__epoll_fd(const ring_buffer *);
void ring_buffer__free(ring_buffer *);
"""

# enum bpf_attach_type (linux/bpf.h).
ATTACH_XDP = 37
ATTACH_TCX_INGRESS = 46  # since Linux 6.6

# XDP_FLAGS_* (linux/if_link.h): where an XDP program runs.
XDP_GENERIC_MODE = 1 << 1
XDP_DRIVER_MODE = 1 << 2
XDP_HARDWARE_MODE = 1 << 3

# BPF_F_TEST_XDP_LIVE_FRAMES (linux/bpf.h, since 5.18): the frames of a test run really go where the verdict says.
TEST_RUN_LIVE_FRAMES = 1 << 1

TC_INGRESS = 1
_PER_CPU_MAP_TYPES = {5, 6, 10}  # PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH
_LOG_OCTETS = 1 << 20
LOG_STATISTICS = 4
_LOG_ALL = 2 | LOG_STATISTICS  # every instruction on every path, and statistics (BPF_LOG_LEVEL2, BPF_LOG_STATS)


class BpfUnavailable(Exception):
    """This host has no libbpf.so.1."""


class BpfError(OSError):
    """The kernel or libbpf refused."""


ffi = declared("libbpf", _DECLARATIONS)


@functools.cache
def library() -> Any:
    """libbpf.so.1, opened once; BpfUnavailable where it cannot be."""
    try:
        opened = ffi.dlopen("libbpf.so.1")
    except OSError as error:
        raise BpfUnavailable(f"libbpf.so.1 cannot be opened: {error}") from error
    opened.libbpf_set_print(ffi.NULL)  # errors come back as values: nothing is printed behind our back
    return opened


def possible_cpus() -> int:
    """How many values a per-CPU map has for each key; BpfError where nobody says it (there is no /sys)."""
    found = int(library().libbpf_num_possible_cpus())
    if found < 0:
        raise _error("CPUs of this host", -found)
    return found


@dataclass(frozen=True, slots=True)
class Map:
    """A map of a loaded object; keys and values are octets in the host's order."""

    name: str
    fd: int
    map_type: int
    key_size: int
    value_size: int
    max_entries: int

    def lookup(self, key: int | bytes) -> bytes | None:
        """The value at *key* (an int is a 32-bit index), or None.  One value only: not for per-CPU maps."""
        value = ffi.new("char[]", self.value_size)
        if library().bpf_map_lookup_elem(self.fd, self._key(key), value):
            if ffi.errno == errno.ENOENT:
                return None
            raise _error(f"map {self.name}: lookup", ffi.errno)
        return bytes(ffi.buffer(value, self.value_size))

    def lookup_per_cpu(self, key: int | bytes) -> list[bytes]:
        """The values at *key* of a per-CPU map, one per possible CPU."""
        stride = (self.value_size + 7) // 8 * 8
        cpus = possible_cpus()
        value = ffi.new("char[]", stride * cpus)
        if library().bpf_map_lookup_elem(self.fd, self._key(key), value):
            raise _error(f"map {self.name}: lookup", ffi.errno)
        return [bytes(ffi.buffer(value + stride * cpu, self.value_size)) for cpu in range(cpus)]

    def update(self, key: int | bytes, value: bytes) -> None:
        """Store *value* at *key*; in a per-CPU map the same value for every CPU."""
        if len(value) != self.value_size:
            raise ValueError(f"map {self.name}: a value has {self.value_size} octets, got {len(value)}")
        if self.map_type in _PER_CPU_MAP_TYPES:
            value = value.ljust((self.value_size + 7) // 8 * 8, b"\0") * possible_cpus()
        if library().bpf_map_update_elem(self.fd, self._key(key), ffi.from_buffer(value), 0):
            raise _error(f"map {self.name}: update", ffi.errno)

    def delete(self, key: int | bytes) -> None:
        """Remove *key*; no error when it is not there."""
        if library().bpf_map_delete_elem(self.fd, self._key(key)) and ffi.errno != errno.ENOENT:
            raise _error(f"map {self.name}: delete", ffi.errno)

    def keys(self) -> Iterator[bytes]:
        """All keys of a hash or LPM map; keys added or removed meanwhile may be missed."""
        key, following = ffi.NULL, ffi.new("char[]", self.key_size)
        while library().bpf_map_get_next_key(self.fd, key, following) == 0:
            yield bytes(ffi.buffer(following, self.key_size))
            key = ffi.new("char[]", bytes(ffi.buffer(following, self.key_size)))

    def _key(self, key: int | bytes) -> Any:
        octets = key.to_bytes(4, "little" if _LITTLE_ENDIAN else "big") if isinstance(key, int) else key
        if len(octets) != self.key_size:
            raise ValueError(f"map {self.name}: a key has {self.key_size} octets, got {len(octets)}")
        return ffi.from_buffer(octets)


_LITTLE_ENDIAN = bytes(ffi.buffer(ffi.new("uint16_t *", 1)))[0] == 1


_ARRAY, _MAPPABLE = 2, 1 << 10  # BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE (linux/bpf.h)


def create_array(name: str, value_size: int, entries: int) -> int:
    """The descriptor of an array that processes can map; BpfError, BpfUnavailable."""
    options = ffi.new("struct bpf_map_create_opts *")
    options.sz, options.map_flags = ffi.sizeof("struct bpf_map_create_opts"), _MAPPABLE
    descriptor = int(library().bpf_map_create(_ARRAY, name.encode(), 4, value_size, entries, options))
    if descriptor < 0:
        raise _error(f"map {name}: cannot be made", -descriptor)
    return descriptor


def consume_ring(ring: Map) -> list[bytes]:
    """Take everything that waits in a ring buffer."""
    taken: list[bytes] = []

    def take(_: Any, octets: Any, size: int) -> int:
        taken.append(bytes(ffi.buffer(octets, size)))
        return 0

    callback = ffi.callback("int(void *, void *, size_t)", take)
    reader = library().ring_buffer__new(ring.fd, callback, ffi.NULL, ffi.NULL)
    if reader == ffi.NULL:
        raise _error(f"map {ring.name}: ring buffer", ffi.errno)
    try:
        library().ring_buffer__consume(reader)
    finally:
        library().ring_buffer__free(reader)
    return taken


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """What a program made of a test packet."""

    verdict: int
    packet: bytes
    context: bytes
    nanoseconds: int
    """Mean per repetition."""


class BpfObject:
    """A BPF ELF object: `open`, adjust, `load`; then `program` and `map`.  Closing it drops programs and maps that
    nothing else holds."""

    def __init__(self, handle: Any, name: str) -> None:
        self._handle = handle
        self._name = name
        self._log_octets, self._log_level = _LOG_OCTETS, 0
        self._log = ffi.new("char[]", _LOG_OCTETS)

    @classmethod
    def open(cls, elf: bytes, name: str) -> Self:
        """Parse the ELF octets; BpfError when libbpf cannot."""
        handle = library().bpf_object__open_mem(ffi.from_buffer(elf), len(elf), ffi.NULL)
        if handle == ffi.NULL:
            raise _error(f"{name}: cannot be opened as a BPF object", ffi.errno)
        return cls(handle, name)

    def resize_map(self, name: str, entries: int) -> None:
        """Give map *name* another number of entries, before `load`."""
        if library().bpf_map__set_max_entries(self._map(name), entries):
            raise _error(f"{self._name}: map {name} cannot have {entries} entries", ffi.errno)

    def resize_values(self, name: str, octets: int) -> None:
        """Give the values of map *name*, of which BTF says nothing, another size, before `load`."""
        if library().bpf_map__set_value_size(self._map(name), octets):
            raise _error(f"{self._name}: map {name} cannot have values of {octets} octets", ffi.errno)

    def set_constants(self, name: str, octets: bytes) -> None:
        """Give the read-only data in section *name* its value, before `load`."""
        if library().bpf_map__set_initial_value(self._map(name), ffi.from_buffer(octets), len(octets)):
            raise _error(f"{self._name}: {name} cannot be {octets.hex()}", ffi.errno)

    def reuse_map(self, name: str, descriptor: int) -> None:
        """Have map *name* be one that is there already, before `load`; the descriptor stays the caller's."""
        if library().bpf_map__reuse_fd(self._map(name), descriptor):
            raise _error(f"{self._name}: map {name} cannot be the one that is there", ffi.errno)

    def keep_log(self, octets: int, *, level: int = _LOG_ALL) -> None:
        """Have the verifier tell what it does with the next program that is loaded, up to so many *octets*.

        *level*: all of it, or LOG_STATISTICS: how much it was.
        """
        self._log_octets, self._log, self._log_level = octets, ffi.new("char[]", octets), level

    @property
    def log(self) -> str:
        """What the verifier said of the last program that was loaded: of failures, and after `keep_log` of all."""
        return bytes(ffi.string(self._log)).decode(errors="replace")

    def load(self, only: str | None = None) -> Self:
        """Create the maps and have the programs verified (only the program *only*, where given)."""
        lib = library()
        program = ffi.NULL
        while (program := lib.bpf_object__next_program(self._handle, program)) != ffi.NULL:
            if only is not None:
                lib.bpf_program__set_autoload(program, ffi.string(lib.bpf_program__name(program)).decode() == only)
            lib.bpf_program__set_log_buf(program, self._log, self._log_octets)
            if self._log_level:
                lib.bpf_program__set_log_level(program, self._log_level)
        if lib.bpf_object__load(self._handle):
            number = ffi.errno
            said = self.log.strip().splitlines()
            raise _error(f"{self._name}: not accepted by the kernel", number, "\n".join(said[-20:]))
        return self

    def program(self, name: str) -> int:
        """The descriptor of a loaded program, valid until `close`."""
        program = library().bpf_object__find_program_by_name(self._handle, name.encode())
        if program == ffi.NULL:
            raise BpfError(errno.ENOENT, f"{self._name}: no program {name}")
        return int(library().bpf_program__fd(program))

    def map(self, name: str) -> Map:
        """Map *name* (global data: `.bss`, `.data`, `.rodata`), valid until `close`."""
        lib, handle = library(), self._map(name)
        return Map(
            name,
            int(lib.bpf_map__fd(handle)),
            int(lib.bpf_map__type(handle)),
            int(lib.bpf_map__key_size(handle)),
            int(lib.bpf_map__value_size(handle)),
            int(lib.bpf_map__max_entries(handle)),
        )

    def _map(self, name: str) -> Any:
        # libbpf puts the first octets of the object's name before ".bss" and its kin: match by the end.
        handle = ffi.NULL
        while (handle := library().bpf_object__next_map(self._handle, handle)) != ffi.NULL:
            found = ffi.string(library().bpf_map__name(handle)).decode()
            if found == name or (name.startswith(".") and found.endswith(name)):
                return handle
        raise BpfError(errno.ENOENT, f"{self._name}: no map {name}")

    def memory_octets(self) -> int:
        """Kernel memory of maps and loaded programs, as the kernel accounts it."""
        lib, total = library(), 0
        descriptors = []
        program = ffi.NULL
        while (program := lib.bpf_object__next_program(self._handle, program)) != ffi.NULL:
            descriptors.append(lib.bpf_program__fd(program))
        handle = ffi.NULL
        while (handle := lib.bpf_object__next_map(self._handle, handle)) != ffi.NULL:
            descriptors.append(lib.bpf_map__fd(handle))
        for descriptor in descriptors:
            if descriptor < 0:
                continue
            with open(f"/proc/self/fdinfo/{descriptor}", encoding="utf-8") as lines:
                total += sum(int(line.split()[1]) for line in lines if line.startswith("memlock:"))
        return total

    def close(self) -> None:
        """Give back everything; harmless when repeated."""
        if self._handle != ffi.NULL:
            library().bpf_object__close(self._handle)
            self._handle = ffi.NULL

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run_on_packet(
    program: int,
    packet: bytes,
    *,
    repeat: int = 1,
    context: bytes = b"",
    flags: int = 0,
    batch: int = 0,
    packet_room: int = 4096,
) -> ProgramRun:
    """BPF_PROG_TEST_RUN: feed *packet* to *program*, *repeat* times.

    With TEST_RUN_LIVE_FRAMES the verdicts are carried out, nothing comes back, and InterruptedError says that a signal
    ended the run early.
    """
    live = bool(flags & TEST_RUN_LIVE_FRAMES)
    packet_in, context_in = ffi.from_buffer(packet), ffi.from_buffer(context)
    packet_out, context_out = ffi.new("char[]", packet_room), ffi.new("char[]", max(1, len(context)))
    options = ffi.new("struct bpf_test_run_opts *")
    options.sz = ffi.sizeof("struct bpf_test_run_opts")
    options.data_in, options.data_size_in = packet_in, len(packet)
    if context:
        options.ctx_in, options.ctx_size_in = context_in, len(context)
    if not live:
        options.data_out, options.data_size_out = packet_out, packet_room
        if context:
            options.ctx_out, options.ctx_size_out = context_out, len(context)
    options.repeat, options.flags, options.batch_size = repeat, flags, batch
    if library().bpf_prog_test_run_opts(program, options):
        raise _error("test run", ffi.errno)
    if live:
        return ProgramRun(options.retval, b"", b"", options.duration)
    return ProgramRun(
        options.retval,
        bytes(ffi.buffer(packet_out, options.data_size_out)),
        bytes(ffi.buffer(context_out, len(context))),
        options.duration,
    )


def link(program: int, ifindex: int, attach_type: int, flags: int = 0) -> int:
    """Attach *program* to an interface of this namespace; it stays until the returned descriptor is closed."""
    options = ffi.new("struct bpf_link_create_opts *")
    options.sz, options.flags = ffi.sizeof("struct bpf_link_create_opts"), flags
    descriptor = int(library().bpf_link_create(program, ifindex, attach_type, options))
    if descriptor < 0:
        raise _error(f"interface {ifindex}: attach (type {attach_type}, flags {flags})", ffi.errno)
    return descriptor


def trace(program: int, tracepoint: str) -> int:
    """Run *program* at a tracepoint of the kernel until the returned descriptor is closed."""
    descriptor = int(library().bpf_raw_tracepoint_open(tracepoint.encode(), program))
    if descriptor < 0:
        raise _error(f"tracepoint {tracepoint}", ffi.errno)
    return descriptor


@contextlib.contextmanager
def tc_ingress(program: int, ifindex: int, *, handle: int = 1, priority: int = 1) -> Iterator[None]:
    """Attach *program* to an interface's clsact ingress hook (where there is no tcx) for the time of the block.

    Unlike a link this outlives a process that is killed.
    """
    lib = library()
    hook = ffi.new("struct bpf_tc_hook *")
    hook.sz, hook.ifindex, hook.attach_point = ffi.sizeof("struct bpf_tc_hook"), ifindex, TC_INGRESS
    if lib.bpf_tc_hook_create(hook) and ffi.errno != errno.EEXIST:
        raise _error(f"interface {ifindex}: clsact", ffi.errno)
    options = ffi.new("struct bpf_tc_opts *")
    options.sz, options.prog_fd = ffi.sizeof("struct bpf_tc_opts"), program
    options.handle, options.priority = handle, priority
    if lib.bpf_tc_attach(hook, options):
        raise _error(f"interface {ifindex}: tc attach", ffi.errno)
    try:
        yield
    finally:
        options.prog_fd = options.prog_id = options.flags = 0
        lib.bpf_tc_detach(hook, options)


@contextlib.contextmanager
def run_time_statistics() -> Iterator[None]:
    """Have the kernel measure all BPF programs' run time (some 20 ns per run) for the time of the block."""
    descriptor = int(library().bpf_enable_stats(0))
    if descriptor < 0:
        raise _error("BPF statistics", ffi.errno)
    try:
        yield
    finally:
        os.close(descriptor)


def _error(what: str, number: int, detail: str = "") -> OSError:
    text = f"{what}: {os.strerror(number)}" + (f"\n{detail}" if detail else "")
    if number == errno.EINTR:
        return InterruptedError(number, text)
    return BpfError(number, text)
