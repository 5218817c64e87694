"""Every example runs on its own in an empty folder, and leaves no files behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import numba_rnnlm

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example(example, tmp_path):
    home = str(Path(numba_rnnlm.__file__).parents[1])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(example)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert all("compiling kernels" in line for line in done.stderr.splitlines())
    assert len(done.stdout.splitlines()) > 5
    assert not any(tmp_path.iterdir())


def test_there_are_examples():
    assert len(EXAMPLES) >= 4
