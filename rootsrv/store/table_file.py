"""Answer tables on disk: their names, and the one way to open them."""

import mmap
import os
from pathlib import Path

from rootsrv.answer.table import AnswerTable, TableUnusable


def table_name(generation: int) -> str:
    """The file name of answer table *generation*."""
    return f"{generation}.table"


def table_path(tables_directory: Path, generation: int) -> Path:
    """The path of answer table *generation*."""
    return tables_directory / table_name(generation)


def open_table(path: Path | str, *, directory: int | None = None) -> AnswerTable:
    """Map the file at *path* (below the descriptor *directory*, if there is one).

    TableUnusable names what is wrong with the file, OSError passes through.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        size = os.fstat(descriptor).st_size
        if size == 0:
            raise TableUnusable(f"{path}: empty file")
        mapping = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)
    try:
        return AnswerTable(mapping)
    except TableUnusable as error:
        raise TableUnusable(f"{path}: {error}") from error


def open_generation(tables_directory: Path, generation: int) -> AnswerTable:
    """Map answer table *generation*; TableUnusable says why it cannot be used."""
    path = table_path(tables_directory, generation)
    try:
        return open_table(path)
    except OSError as error:
        raise TableUnusable(f"{path}: {error.strerror}") from error
