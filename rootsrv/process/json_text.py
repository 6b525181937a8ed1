"""JSON that was kept, or came from another process: whatever is wrong with it is a ValueError."""

import json
from typing import Any


def parse(text: str | bytes) -> Any:
    """What *text* says; ValueError if it is not JSON, or nested so deeply that Python gives up."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
