"""Shared parts of the stateful tests.

A state machine calls drawn operations one after the other, and compares each object with a simpler model of its expected state.
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
    """An exception that the library does not know."""


def stop(trainer):
    raise Stopped


@contextlib.contextmanager
def before_update(number, act):
    """Call ``act`` with the trainer before the update of this number, counted from 0 within the ``with``."""
    step, calls = Trainer._step, itertools.count()

    def acting(self, *arguments):
        if next(calls) == number:
            act(self)
        step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", acting)
        yield


def explore(machine, operations=16):
    """Run as many examples as the loaded profile specifies. Nothing waits for the disk, because no power fails here."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(os, "fsync", lambda descriptor: None)
        warnings.simplefilter("ignore")
        run_state_machine_as_test(machine, settings=settings(stateful_step_count=operations))
