"""C declarations as cffi has parsed them in advance: made by `make declarations`, used by c_declarations.py."""
