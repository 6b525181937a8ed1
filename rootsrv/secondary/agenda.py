"""What the pipeline has to look at."""

import asyncio


class Agenda:
    """The keepers put on it what the pipeline takes off."""

    def __init__(self) -> None:
        self._something = asyncio.Event()
        self._verify_again = False
        self._look_for_table = False

    def delivered(self) -> None:
        """A keeper has a delivery."""
        self._something.set()

    def ask_to_verify(self) -> None:
        """Have the root in service verified again."""
        self._verify_again = True
        self._something.set()

    def take_verification(self) -> bool:
        """Whether that was asked for since this was called last."""
        asked, self._verify_again = self._verify_again, False
        return asked

    def ask_for_table(self) -> None:
        """Have the table in force looked at, and made again if need be."""
        self._look_for_table = True
        self._something.set()

    def take_table(self) -> bool:
        """Whether that was asked for since this was called last."""
        asked, self._look_for_table = self._look_for_table, False
        return asked

    def begin_turn(self) -> None:
        """What is put on it from now on ends `wait`."""
        self._something.clear()

    async def wait(self) -> None:
        """Until something was put on it since `begin_turn`."""
        await self._something.wait()
