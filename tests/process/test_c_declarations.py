"""What cffi has parsed in advance is what it would parse now, and nothing else is used."""

from rootsrv.commands import declarations
from rootsrv.process import c_declarations


def test_what_is_kept_is_made_from_what_is_declared() -> None:
    made = declarations.files()
    assert {path.stem for path in made} == {"accepting", "layout", "libbpf", "libssl", "mmsg"}
    # By what it was made from: another version of cffi may write the same in other words.
    stale = [
        path.name for path, contents in made.items() if path.read_text().split("\n")[:2] != contents.split("\n")[:2]
    ]
    assert stale == [], "make declarations"


def test_other_declarations_than_those_kept_are_parsed() -> None:
    ffi = c_declarations.declared("accepting", "struct other { int first; int second; };")
    assert ffi.sizeof("struct other") == 8
    ffi = c_declarations.declared("nowhere", "struct another { int first; };")
    assert ffi.sizeof("struct another") == 4
    del c_declarations.DECLARED["nowhere"]


def test_what_is_kept_says_what_the_parsed_text_says() -> None:
    import cffi

    declarations.files()
    text = c_declarations.DECLARED["layout"]
    kept, parsed = c_declarations.declared("layout", text), cffi.FFI()
    parsed.cdef(text)
    assert type(kept) is not type(parsed)
    structs, _, _ = parsed.list_types()
    named = [name for name in (*structs, *parsed.list_types()[1]) if not name.startswith("$")]
    assert len(named) > 10
    for name in named:
        kind = name if name in structs else f"struct {name}"
        assert kept.sizeof(kind) == parsed.sizeof(kind), kind
        for (field, theirs), (known, ours) in zip(
            parsed.typeof(kind).fields or (), kept.typeof(kind).fields or (), strict=True
        ):
            assert (field, theirs.offset, theirs.bitshift) == (known, ours.offset, ours.bitshift), kind
