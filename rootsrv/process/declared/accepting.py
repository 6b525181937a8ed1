# Made by `make declarations`; not to be changed by hand.
DIGEST = "45c5d0d5dac74c5de2a039bcd92d852b139eaf5c3837af4a5f2ffcb01a78a4e0"
# auto-generated file
import _cffi_backend

ffi = _cffi_backend.FFI('rootsrv.process.declared.accepting',
    _version = 0x2601,
    _types = b'\x00\x00\x01\x0D\x00\x00\x07\x01\x00\x00\x07\x03\x00\x00\x06\x03\x00\x00\x07\x01\x00\x00\x00\x0F\x00\x00\x08\x01\x00\x00\x00\x01',
    _globals = (b'\x00\x00\x00\x23accept4',0,),
)
