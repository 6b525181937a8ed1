"""The table of addresses of a C-DNS block (RFC 8618 §7.5.3) by columns, anonymised if they are to be."""

import numpy
from numpy.typing import NDArray

from rootsrv.capture.anonymise import Anonymiser
from rootsrv.capture.cbor_columns import Flags, Integers, Octets
from rootsrv.capture.entries import Words, entries, hashed


def _addresses(octets: Octets, six: Flags, prefixes: tuple[int, int] | None) -> tuple[bytes, Integers]:
    """Addresses, shape (n, 16), as CBOR byte strings, and the place of each among them.

    They are whole, or as many octets as the prefixes need.
    """
    written, places = [], numpy.empty(len(octets), numpy.intp)
    at = 0
    for some, bits in zip((numpy.flatnonzero(~six), numpy.flatnonzero(six)), prefixes or (32, 128), strict=True):
        size = -(-bits // 8)
        matrix = numpy.empty((len(some), 1 + size), numpy.uint8)
        matrix[:, 0] = 0x40 | size
        matrix[:, 1:] = octets[some, :size]
        written.append(matrix.tobytes())
        places[some] = numpy.arange(at, at + len(some))
        at += len(some)
    return b"".join(written), places


def _anonymised(octets: Octets, six: Flags, anonymiser: Anonymiser) -> Octets:
    made = numpy.zeros_like(octets)
    made[six] = anonymiser.addresses(octets[six])
    made[~six, :4] = anonymiser.addresses(octets[~six, :4])
    return made


def clients(rows: Words, anonymiser: Anonymiser | None) -> tuple[bytes, int, Integers]:
    """The table's entries for the sources of *rows*, how many they are, and the number of each row's."""
    six = rows.view(numpy.uint8)[:, 9] == 6
    low, high = rows[:, 4], rows[:, 5]
    if anonymiser and anonymiser.prefixes:
        masks = [anonymiser.address(b"\xff" * size).ljust(16, b"\0") for size in (4, 16)]
        (low_four, _), (low_six, high_six) = numpy.frombuffer(b"".join(masks), numpy.uint64).reshape(2, 2)
        low, high = low & numpy.where(six, low_six, low_four), high & numpy.where(six, high_six, 0)
    first, numbers = entries(hashed(low, high, six.astype(numpy.uint64)))
    octets, six = rows.view(numpy.uint8)[first, 32:48], six[first]
    if anonymiser:
        octets = _anonymised(octets, six, anonymiser)
    written, places = _addresses(octets, six, anonymiser.prefixes if anonymiser else None)
    return written, len(first), places[numbers]


def servers(rows: NDArray[numpy.void], before: int) -> tuple[bytes, int, Integers]:
    """The table's entries for the destinations of *rows*, behind *before* others; otherwise as `clients`."""
    words = numpy.ascontiguousarray(rows["destination"]).view(numpy.uint64)
    six = rows["family"] == 6
    first, numbers = entries(hashed(words[:, 0], words[:, 1], six.astype(numpy.uint64)))
    written, places = _addresses(rows["destination"][first], six[first], None)
    return written, len(first), before + places[numbers]
