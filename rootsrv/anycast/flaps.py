"""What is known of withdrawals, kept where the next controller finds it."""

import json
from dataclasses import asdict
from pathlib import Path

from rootsrv.health.state import Flaps
from rootsrv.process import json_text, whole_file


def load_flaps(path: Path, boot_id: str, now: float) -> dict[int, Flaps]:
    """What was known of withdrawals when the controller ended, by IP version; empty after a reboot.

    Was the prefix still announced then, the controller did not end in good order: that counts as one withdrawal more.
    """
    try:
        document = json_text.parse(path.read_text(encoding="utf-8"), infinite=True)  # quiet since -Infinity: always
        if document["boot"] != boot_id:
            return {}
        found = {}
        for version in (4, 6):
            if (each := document.get(str(version))) is not None:
                announced = each["announced_since"] is not None
                found[version] = Flaps(
                    int(each["withdrawals"]) + announced, now if announced else float(each["quiet_since"])
                )
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return {}
    return found


def keep_flaps(path: Path, boot_id: str, flaps: dict[int, Flaps]) -> None:
    """Write what `load_flaps` reads; OSError passes through."""
    document = {"boot": boot_id} | {str(version): asdict(each) for version, each in flaps.items()}
    whole_file.replace(path, json.dumps(document).encode())
