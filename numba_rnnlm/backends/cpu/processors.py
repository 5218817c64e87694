"""The default number of threads: the processors of this process, as limited by containers and other libraries' settings."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...errors import ConfigError, shown
from .. import MOST_THREADS

VARIABLE = "NUMBA_RNNLM_NUM_THREADS"
SHARED_VARIABLES = "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"  # set by joblib, dask and torchrun to divide a computer among processes


def default_threads(root: Path = Path("/"), environment: Mapping[str, str] | None = None) -> int:
    """NUMBA_RNNLM_NUM_THREADS, or else the smallest limit on this process.

    The limits are the processors it may run on, the quotas of its control groups (rounded up) and the variables of other
    libraries. As in OpenMP, a list in such a variable counts with its first number, and anything else is ignored. ``root`` is the
    folder that contains proc and sys.
    """
    environment = os.environ if environment is None else environment
    text = environment.get(VARIABLE, "").strip()
    if text:
        if not 1 <= _count(text) <= MOST_THREADS:
            raise ConfigError(f"{VARIABLE} is {shown(text)}, expected a whole number at least 1 and at most {MOST_THREADS:,}.")
        return _count(text)
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for variable in SHARED_VARIABLES:
        first = environment.get(variable, "").split(",")[0].strip()
        if _count(first):
            limits.append(_count(first))
    limits.extend(max(1, -(-quota // period)) for quota, period in _quotas(root))
    return min(limits)


def _count(text: str) -> int:
    """The positive integer that the text is in ASCII digits, else 0. Other software's settings may have any length."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0


def _quotas(root: Path) -> Iterator[tuple[int, int]]:
    """(quota, period) in microseconds of this process's control groups and all their ancestors."""
    for group, mounted in _groups(root):
        for folder in (group, *group.parents):
            for fields in (_words(folder / "cpu.max"),
                           [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]):  # fmt: skip
                if len(fields) == 2 and all(map(_count, fields)):
                    yield _count(fields[0]), _count(fields[1])  # without a quota the first word is "max", or -1
            if folder == mounted:
                break


def _groups(root: Path) -> Iterator[tuple[Path, Path]]:
    """(folder, mount point) of each control group that may limit processors."""
    paths = {}
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" or "cpu" in controllers.split(","):
            paths["cgroup2" if number == "0" else "cgroup"] = path
    for line in _lines(root / "proc/self/mountinfo"):
        where, _, what = line.partition(" - ")
        places, kinds = where.split(), what.split()
        if len(places) < 5 or len(kinds) < 3 or kinds[0] not in paths:
            continue
        if kinds[0] == "cgroup" and "cpu" not in kinds[2].split(","):
            continue
        mounted, path = root / places[4].lstrip("/"), paths[kinds[0]]
        # Inside a container the path may be the host's, mounted only in part or not at all.
        inside = Path(path).is_relative_to(places[3]) and ".." not in path.split("/")
        yield (mounted / Path(path).relative_to(places[3]) if inside else mounted), mounted


def _lines(path: Path) -> list[str]:
    """Lines of a system file; none if it does not exist, as outside Linux."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()
