"""The harness of :mod:`fuzz` detects violations: cases that break a rule on purpose fail, and are identified by number."""

import json
import os
import subprocess
import sys
from pathlib import Path

from checks import HANG

import numba_rnnlm

PROGRAM = '''
import os, sys, threading, time, warnings
from pathlib import Path
from fuzz import conduct, workers
from numba_rnnlm.errors import CorpusError, VocabularyError

conduct.WORK = 1
leaked = []

def reject(case):
    raise VocabularyError("rejected, as it should be")

def exhaust(case):
    try:
        bytearray(2 * conduct.MEMORY)
    except MemoryError as error:
        raise CorpusError("no memory") from error

def loop(case):
    while True:
        pass

CASES = [
    lambda case: True,
    reject,
    lambda case: Path("left").write_text("x") or True,
    lambda case: leaked.append(open("/dev/null")) or True,
    lambda case: threading.Thread(target=time.sleep, args=(600,), daemon=True).start() or True,
    lambda case: print("printed") or True,
    lambda case: warnings.warn("odd") or True,
    lambda case: case.messages.append("\\x1b[2J") or True,
    lambda case: case.shown.append("a\\n\\u202e") or True,
    lambda case: case.messages.append("x" * 2001) or True,
    lambda case: {}["missing"],
    lambda case: case.put("own", b"x") and bytearray(2 * conduct.MEMORY),
    exhaust,
    lambda case: os.abort(),
    loop,
    lambda case: True,
]

workers.KINDS["odd"] = (int, lambda case, prepared: CASES[case.number](case))
workers.KINDS["leak"] = (int, lambda case, prepared: leaked.append([[] for _ in range(20)]) or True)
workers.KINDS["sound"] = (int, lambda case, prepared: [[] for _ in range(20)] != [])

if __name__ == "__main__":
    sys.argv[0] = "fuzz"
    sys.exit(workers.main())
'''
FOUND = {
    2: "files were left: {'left'}", 3: "open files and threads: ", 4: "open files and threads: ", 5: "something was printed: b'printed", 6: "warnings were shown: ['odd']",
    7: r"'\x1b' in ", 8: r"'\u202e' in ", 9: "a message of 2,001 characters: ", 10: "KeyError: 'missing'", 11: "MemoryError", 12: "the memory is exhausted",
    13: "the process has died, exit code -6", 14: "the process has died, exit code -27",
}  # fmt: skip


def fuzz(folder, *arguments):
    program = folder / "program.py"
    program.write_text(PROGRAM)
    paths = os.pathsep.join(map(str, (Path(numba_rnnlm.__file__).parents[1], Path(__file__).parent)))
    done = subprocess.run([sys.executable, program, *arguments], capture_output=True, text=True, timeout=HANG, cwd=folder, env=os.environ | {"PYTHONPATH": paths})
    return done.stdout, json.loads(done.stdout.splitlines()[-1]), done.returncode


def test_every_violation_is_detected(tmp_path):
    output, figures, code = fuzz(tmp_path, "odd", "--cases", "16", "--failures", "found")
    reported = {int(part.split(":")[0]): part for part in output.split("case ")[1:]}
    assert {number: FOUND[number] in reported[number] for number in reported} == dict.fromkeys(FOUND, True)
    assert "in loop" in reported[14]  # the traceback
    assert (code, figures["read"], figures["rejected"], figures["failures"]) == (1, 2, 1, 13)
    assert (tmp_path / "found" / "odd-11" / "own").read_bytes() == b"x"
    assert FOUND[9] in (tmp_path / "found" / "odd-9" / "failure.txt").read_text()


def test_a_leak_is_detected(tmp_path):
    output, figures, code = fuzz(tmp_path, "leak", "--cases", "1500", "--processes", "2")
    assert output.startswith("all cases:\nwith every ") and "objects" in output and (code, figures["failures"]) == (1, 2)
    output, figures, code = fuzz(tmp_path, "sound", "--cases", "1500")
    assert (code, figures["failures"], figures["cases"]) == (0, 0, 1500)
