"""What the control socket of serve does for the fast path."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from rootsrv.control.protocol import Caller, Order
from rootsrv.fastpath.control import commands


@pytest.mark.parametrize("command", ["fastpath-attach", "fastpath-detach", "fastpath-probe"])
def test_commands_that_wait_for_the_kernel_do_so_beside_the_loop(command: str) -> None:
    threads = []

    class Slow:
        def __getattr__(self, _: str) -> Callable[..., dict[str, str]]:
            def noted(*_: object, **__: object) -> dict[str, str]:
                threads.append(threading.get_ident())
                return {}

            return noted

        def status(self) -> dict[str, str]:
            return {}

    asked = commands(Slow())[command]  # type: ignore[arg-type]
    assert asyncio.run(asked.run(Order(asked.takes(), Caller(0, 1)))) == {}
    assert len(threads) == 1
    assert threading.get_ident() not in threads
