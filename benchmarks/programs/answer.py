"""The programs' answers, one line of JSON. Imports nothing that would slow down a measured start."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def memory() -> dict[str, float]:
    """Peak resident memory of this process in MB (10⁶ bytes), and on Linux its current anonymous memory.

    Linux's ru_maxrss (getrusage) is not used, because it is never below what the parent had when it started the process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        megabytes = {name: int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmHWM", "RssAnon")}
        return {"peak_megabytes": megabytes["VmHWM"], "anonymous_megabytes": megabytes["RssAnon"]}
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_megabytes": peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6}


def main(commands: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Run the command that the arguments name; arguments that are numbers are converted."""
    command, *arguments = sys.argv[1:]
    found = commands[command](*(int(text) if text.isdigit() else text for text in arguments))
    print(json.dumps(found | memory()), flush=True)
