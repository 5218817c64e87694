"""What the stateful tests share.

A machine calls one drawn operation after the other, and holds each object against something simpler that says what it must be by then.
"""

import contextlib
import itertools
import os
import warnings

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from numba_rnnlm.training.loop import Trainer


class Stopped(Exception):
    """Something that no training expects."""


def stop(trainer):
    raise Stopped


@contextlib.contextmanager
def before_update(number, act):
    """``act`` on the trainer before the update of this number, which is counted from 0 within the ``with``."""
    step, calls = Trainer._step, itertools.count()

    def acting(self, *arguments):
        if next(calls) == number:
            act(self)
        step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", acting)
        yield


def explore(machine, operations=16):
    """As many examples as the loaded profile asks for. Nothing waits for the disk: no power fails here."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(os, "fsync", lambda descriptor: None)
        warnings.simplefilter("ignore")
        run_state_machine_as_test(machine, settings=settings(stateful_step_count=operations))
