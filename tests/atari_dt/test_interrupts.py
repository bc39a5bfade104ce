"""Interruptions that code swallows, converts or receives twice."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from atari_dt.interrupts import raise_on_interrupt


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Check that the handlers are those from before the test."""
    handlers = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


class Interrupting:
    """An object with a destructor that a signal interrupts."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def ignore_in_destructor() -> None:
    Interrupting()


def catch() -> None:
    with contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGTERM)


def convert() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except BaseException as error:
        raise ImportError("initialization failed") from error


@pytest.mark.parametrize("swallow", [ignore_in_destructor, catch])
def test_a_swallowed_interruption_is_raised_again(
    swallow: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    finished = []

    def work() -> None:
        swallow()
        time.sleep(60)
        finished.append(True)

    with pytest.raises(KeyboardInterrupt), raise_on_interrupt():
        work()
    assert not finished
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("swallow", [ignore_in_destructor, catch, convert])
def test_a_swallowed_interruption_is_raised_at_the_end(swallow: Callable[[], None]) -> None:
    with pytest.raises(KeyboardInterrupt), raise_on_interrupt():
        swallow()


def test_the_cleanup_is_not_interrupted_by_a_reminder_or_an_echo() -> None:
    cleaned = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.8)  # longer than the interval of the reminders
            try:
                raise OSError
            except OSError:
                time.sleep(0.4)
            cleaned.append(True)

    with pytest.raises(KeyboardInterrupt), raise_on_interrupt():
        work()
    assert cleaned


def test_the_cleanup_is_interrupted_by_a_later_signal() -> None:
    cleaned = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            time.sleep(1.1)
            signal.raise_signal(signal.SIGINT)
            cleaned.append(True)

    with pytest.raises(KeyboardInterrupt), raise_on_interrupt():
        work()
    assert not cleaned


def test_errors_without_a_signal_are_those_of_the_block() -> None:
    with pytest.raises(ImportError, match="missing"), raise_on_interrupt():
        raise ImportError("missing")


def test_a_signal_that_the_caller_ignores_stays_ignored() -> None:
    """A shell starts background commands so."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with raise_on_interrupt():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_signal_that_arrives_after_the_work_changes_nothing() -> None:
    """Callbacks run in reverse order: the signal comes last, when the interpreter has almost ended."""
    program = """
import atexit, os, signal
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
from atari_dt.interrupts import exit_on_interrupt
exit_on_interrupt(__name__)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
