"""C declarations for cffi's ABI mode, parsed in advance.

To parse them costs a process that answers an eighth of its start, and megabytes for pycparser: `make declarations` does
it once and keeps what comes out in declared/.  What is kept is only used for the very text that it was made from.
"""

import hashlib
import importlib
import io
from typing import Any

_PACKAGE = "rootsrv.process.declared"

DECLARED: dict[str, str] = {}
"""What has been asked for in this process: the declarations by name."""


def declared(name: str, text: str) -> Any:
    """An FFI that knows the declarations *text*; *name*: of the module that is made from them.

    Any: attributes of C structs are beyond cffi's type stubs.  Raises cffi.CDefError for what is no declaration.
    """
    DECLARED[name] = text
    try:
        made = importlib.import_module(f"{_PACKAGE}.{name}")
        if digest(text) == made.DIGEST:
            return made.ffi
    except ImportError:
        pass
    import cffi

    ffi = cffi.FFI()
    ffi.cdef(text)
    return ffi


def digest(text: str) -> str:
    """What tells *text* from other declarations."""
    return hashlib.sha256(text.encode()).hexdigest()


def module_of(name: str, text: str) -> str:
    """The Python module that `declared` wants for *name*."""
    from cffi import FFI, recompiler

    ffi = FFI()
    ffi.cdef(text)
    code = io.StringIO()
    recompiler.make_py_source(ffi, f"{_PACKAGE}.{name}", code)
    return f'# Made by `make declarations`; not to be changed by hand.\nDIGEST = "{digest(text)}"\n{code.getvalue()}'
