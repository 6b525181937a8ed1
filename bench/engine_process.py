"""An engine in a process of its own: inside a network namespace, pinned to a core, ended with its parent."""

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from bench import network
from bench.load import Load

_PR_SET_PDEATHSIG = 1
_START_SECONDS = 60.0
_CONTEXT = multiprocessing.get_context("spawn")


class EngineFailed(Exception):
    """The engine could not be made, or ended in a run."""


class EngineProcess:
    """Makes *build* (picklable; returns an engine) there and passes on what is asked of it."""

    def __init__(self, build: Callable[[], Any], *, namespace: str | None = None, cpu: int | None = None) -> None:
        ours, theirs = _CONTEXT.Pipe()
        self._connection = ours
        self._process = _CONTEXT.Process(target=_serve, args=(theirs, build, namespace, cpu), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._answer("start", _START_SECONDS)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid or 0

    def run(self, rate: float | None, seconds: float) -> Load:
        """`Engine.run`, bounded: a generator that does not come back is an error."""
        load = self.call("run", rate, seconds, within=seconds + 30)
        assert isinstance(load, Load)
        return load

    def start(self, rate: float | None, seconds: float) -> None:
        """Begin a run without waiting for its end; `finish` has the result."""
        self._connection.send(("run", (rate, seconds)))

    def finish(self, seconds: float) -> Load:
        """The result of the run that `start` began, awaited for at most *seconds*."""
        load = self._answer("run", seconds)
        assert isinstance(load, Load)
        return load

    def call(self, method: str, *arguments: Any, within: float = 60.0) -> Any:
        """Call *method* of the engine; its result, or its exception as EngineFailed."""
        self._connection.send((method, arguments))
        return self._answer(method, within)

    def _answer(self, what: str, within: float) -> Any:
        if not self._connection.poll(within):
            raise EngineFailed(f"load generator: {what}: no result after {within:.0f} s")
        try:
            good, value = self._connection.recv()
        except EOFError:
            self._process.join(1)
            raise EngineFailed(f"load generator: {what}: ended with status {self._process.exitcode}") from None
        if not good:
            raise EngineFailed(f"load generator: {what}: {value}")
        return value

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(0.5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def stand_apart() -> None:
    """Of a process of ours: it ends with its parent, and what Ctrl-C or timeout(1) send to all is the parent's alone.

    That one then writes what was measured, and takes away what was made, with everybody still there.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.setsid()


def _serve(connection: Connection, build: Callable[[], Any], namespace: str | None, cpu: int | None) -> None:
    stand_apart()
    try:
        if namespace is not None:
            network.enter(namespace)
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})
        engine = build()
    except Exception as error:
        connection.send((False, f"{type(error).__name__}: {error}"))
        return
    connection.send((True, None))
    try:
        while True:
            try:
                method, arguments = connection.recv()
            except (EOFError, OSError):
                return
            try:
                connection.send((True, getattr(engine, method)(*arguments)))
            except Exception as error:
                connection.send((False, f"{type(error).__name__}: {error}"))
    finally:
        engine.close()
