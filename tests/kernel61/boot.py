"""Boots Debian 12's 6.1 cloud kernel under QEMU (TCG: no KVM needed) and has the guest run the corpus there.

python -m tests.kernel61.boot
"""
# The guest's root is an initramfs with one process: this very Python interpreter, with the libraries that it and the
# program need, at the same paths as here.  No disk, no network, no shell.

import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.kernel61 import corpus

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CACHE = REPOSITORY / "build" / "kernel61"
PACKAGES = ("cffi", "_cffi_backend", "pycparser", "dns", "siphash24", "pyroute2", "cryptography")
MODULES = ("kernel/net/sched/sch_ingress.ko", "kernel/net/sched/cls_bpf.ko", "kernel/drivers/net/veth.ko")
BOOT_SECONDS = 540


class CannotBoot(Exception):
    """Something that the test needs is not there."""


def kernel_package() -> Path:
    """The directory of the unpacked kernel package, fetched once."""
    unpacked = CACHE / "kernel"
    if not list(unpacked.glob("boot/vmlinuz-6.1.*")):
        CACHE.mkdir(parents=True, exist_ok=True)
        options: tuple[str, ...] = ()
        name = _kernel_name(options)
        if name is None:
            options = _apt_of_bookworm()
            name = _kernel_name(options)
        if name is None:
            raise CannotBoot("apt knows no 6.1 cloud kernel (linux-image-cloud-amd64 of Debian 12); apt-get update?")
        _apt(*options, "download", name)
        (package,) = CACHE.glob(f"{name}_*.deb")
        subprocess.run(("dpkg-deb", "-x", package, unpacked), check=True)
        package.unlink()
    return unpacked


def _kernel_name(options: Sequence[str]) -> str | None:
    """The 6.1 cloud kernel's package, if apt knows one."""
    depends = subprocess.run(
        ("apt-cache", *options, "depends", "linux-image-cloud-amd64"), capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"Depends: (linux-image-6\.1\.\S+)", depends)
    return found[1] if found else None


def _apt_of_bookworm() -> tuple[str, ...]:
    """Options by which apt sees Debian 12 alone, at this machine's mirror; the machine's own lists stay as they are."""
    wanted = ("indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages")
    here = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    mirrors = [line.split()[0] for line in _apt(*wanted).splitlines() if line.split()[1:] == [here]]
    if not mirrors:
        raise CannotBoot(f"apt has no mirror of {here or 'Debian'}; apt-get update?")
    sources, lists = CACHE / "bookworm.list", CACHE / "lists"
    sources.write_text(f"deb {mirrors[0]} bookworm main\n")
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    options = (
        "-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null",
        "-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={CACHE / 'apt'}", "-o", "APT::Sandbox::User=root",
    )  # fmt: skip
    _apt(*options, "update")
    return options


def _apt(*arguments: str) -> str:
    done = subprocess.run(
        ("apt-get", *arguments), cwd=CACHE, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise CannotBoot(f"apt-get {' '.join(arguments)}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done.stdout


def files(kernel: Path, corpus_path: Path) -> Iterator[tuple[str, Path]]:
    """(path in the guest, file here)."""
    libraries: set[Path] = set()
    interpreter = Path(os.path.realpath(sys.executable))
    site = Path(sysconfig.get_paths()["purelib"])
    wanted = [interpreter]
    standard = Path(sysconfig.get_paths()["stdlib"])
    for path in standard.rglob("*"):
        top = path.relative_to(standard).parts[0]
        if path.is_file() and top not in ("test", "site-packages", "idlelib", "tkinter", "lib2to3", "ensurepip",
                                          "turtledemo", "pydoc_data") and not top.startswith("config-") \
                and "__pycache__" not in path.parts:  # fmt: skip
            wanted.append(path)
    for name in PACKAGES:
        for path in [*site.glob(f"{name}/**/*"), *site.glob(f"{name}*.so"), *site.glob(f"{name}.libs/*"),
                     *site.glob(f"{name}*.py")]:  # fmt: skip
            if path.is_file() and "__pycache__" not in path.parts:
                wanted.append(path)
    for folder in ("rootsrv", "tests", "bench"):
        wanted += [path for path in (REPOSITORY / folder).rglob("*")
                   if path.is_file() and path.suffix in (".py", ".h", ".o", ".toml")]  # fmt: skip
    for path in wanted:
        yield str(path), path
        if path == interpreter or ".so" in path.name:
            libraries |= set(_libraries(path))
    bpf = subprocess.run(("ldconfig", "-p"), capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"libbpf\.so\.1 .* => (\S+)", bpf)[:1]:
        libraries |= {Path(library), *_libraries(Path(library))}
    for library in libraries:
        yield str(library), Path(os.path.realpath(library))
    (modules,) = kernel.glob("lib/modules/*")
    for number, module in enumerate(MODULES):
        yield f"/guest/modules/{number}-{Path(module).name}", modules / module
    yield "/guest/main.py", Path(__file__).parent / "guest.py"
    yield "/guest/corpus", corpus_path


def _libraries(path: Path) -> Iterator[Path]:
    printed = subprocess.run(("ldd", path), capture_output=True, text=True, check=False).stdout
    for library in re.findall(r"(?:=> )?(/\S+) \(0x", printed):
        yield Path(library)


def initramfs(entries: dict[str, Path], texts: dict[str, str]) -> Iterator[bytes]:
    """A cpio archive (newc) of *entries* and *texts*, with the directories that they need."""
    directories = {"/proc", "/sys", "/dev", "/tmp", "/run"}
    for name in [*entries, *texts]:
        directories |= {str(parent) for parent in Path(name).parents} - {"/"}
    number = 1
    for name in sorted(directories):
        yield _header(number, name, stat.S_IFDIR | 0o755, 0)
        number += 1
    for name, source in entries.items():
        octets = source.read_bytes()
        yield _header(number, name, stat.S_IFREG | (0o755 if os.access(source, os.X_OK) else 0o644), len(octets))
        yield octets + bytes(-len(octets) % 4)
        number += 1
    for name, text in texts.items():
        octets = text.encode()
        yield _header(number, name, stat.S_IFREG | 0o644, len(octets))
        yield octets + bytes(-len(octets) % 4)
        number += 1
    yield _header(0, "/TRAILER!!!", 0, 0)


def _header(number: int, name: str, mode: int, size: int) -> bytes:
    octets = name.lstrip("/").encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(octets), 0)
    header = b"070701" + b"".join(b"%08X" % each for each in fields) + octets
    return header + bytes(-len(header) % 4)


def main() -> int:
    """Boot, watch the console, judge; the exit status."""
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None or not (REPOSITORY / "rootsrv/fastpath/bpf/rootsrv.bpf.o").exists():
        raise CannotBoot("qemu-system-x86_64 (qemu-system-x86) and the built BPF program (make bpf) are needed")
    kernel = kernel_package()
    (image,) = kernel.glob("boot/vmlinuz-*")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rootsrv-kernel61-") as name:
        directory = Path(name)
        corpus.write(directory / "corpus")
        entries = dict(files(kernel, directory / "corpus"))
        site = sysconfig.get_paths()["purelib"]
        with (directory / "initramfs").open("wb") as archive:
            archive.writelines(initramfs(entries, {"/guest/path": f"{REPOSITORY}:{site}"}))
        interpreter = os.path.realpath(sys.executable)
        process = subprocess.run(
            (qemu, "-accel", "tcg", "-cpu", "max", "-m", "1536", "-smp", "2", "-nographic", "-no-reboot", "-nodefaults",
             "-serial", "stdio", "-kernel", image, "-initrd", directory / "initramfs",
             "-append", f"console=ttyS0 quiet panic=-1 rdinit={interpreter} -- -u /guest/main.py"),
            capture_output=True, text=True, timeout=BOOT_SECONDS, check=False, errors="replace",
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    print(process.stdout[-20000:])
    print(process.stderr, file=sys.stderr)
    good = "GUEST DONE" in process.stdout
    print(f"kernel61: {'all as it should be' if good else 'FAILED'} after {time.monotonic() - began:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CannotBoot as error:
        print(f"kernel61: {error}", file=sys.stderr)
        sys.exit(1)
