"""Progress bars with and without a terminal, under a clock that the test sets."""

from __future__ import annotations

import gc
import io
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest
import tqdm.std
from tqdm import tqdm as Tqdm

from replay_data.progress import ProgressBar

UseStderr: TypeAlias = Callable[[io.StringIO], io.StringIO]


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of bars and of tqdm."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(tqdm.std, "time", clock)
    monkeypatch.setattr(Tqdm, "monitor_interval", 0)  # no thread that redraws bars
    return clock


@pytest.fixture
def use_stderr(monkeypatch: pytest.MonkeyPatch) -> UseStderr:
    """A function that makes a stream standard error; pytest replaces what a fixture itself would set."""

    def use(stream: io.StringIO) -> io.StringIO:
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return use


@pytest.fixture(autouse=True)
def _no_bar_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert not [bar for bar in getattr(Tqdm, "_instances", ()) if isinstance(bar, ProgressBar)]


def test_log_gets_a_line_every_ten_seconds_and_a_final_one(clock: Clock, use_stderr: UseStderr) -> None:
    log = use_stderr(io.StringIO())
    with ProgressBar(total=100, unit="step", desc="playing") as bar:
        for _ in range(25):
            clock.seconds += 1
            bar.update(4)
            assert log.getvalue().count("\n") == int(clock.seconds - 1000) // 10
    text = log.getvalue()
    assert "\r" not in text
    assert text.endswith("\n")
    assert [re.match(r"playing: +(\d+)%", line)[1] for line in text.splitlines()] == ["40", "80", "100"]  # type: ignore[index]
    assert "100/100 [00:25<00:00,  4.00step/s]" in text.splitlines()[-1]


def test_final_line_shows_the_rate_of_the_whole_run(clock: Clock, use_stderr: UseStderr) -> None:
    log = use_stderr(io.StringIO())
    with ProgressBar(total=50, unit="step") as bar:
        for seconds in (1, 39):
            clock.seconds += seconds
            bar.update(25)
    assert "[00:40<00:00,  1.25step/s]" in log.getvalue().splitlines()[-1]


def test_log_without_updates_gets_the_final_line_only(clock: Clock, use_stderr: UseStderr) -> None:
    log = use_stderr(io.StringIO())
    bar = ProgressBar(unit="B", unit_scale=True, desc="downloading Pong")
    assert log.getvalue() == ""
    clock.seconds += 3
    bar.update(6_000_000)
    assert log.getvalue() == ""
    bar.close()
    bar.close()
    assert log.getvalue() == "downloading Pong: 6.00MB [00:03, 2.00MB/s]\n"


def test_postfix_is_part_of_the_line(clock: Clock, use_stderr: UseStderr) -> None:
    log = use_stderr(io.StringIO())
    with ProgressBar(total=2, unit="update") as bar:
        bar.set_postfix_str("loss 1.25")
        assert log.getvalue() == ""
        clock.seconds += 10
        bar.set_postfix_str("loss 0.50")
        assert log.getvalue().count("\n") == 1
        bar.set_postfix(loss=0.25)
    first, last = log.getvalue().splitlines()
    assert first.endswith("loss 0.50]")
    assert last.endswith("loss=0.25]")
    assert "\r" not in log.getvalue()


def test_bar_that_does_not_stay_prints_no_final_line(clock: Clock, use_stderr: UseStderr) -> None:
    log = use_stderr(io.StringIO())
    for _ in ProgressBar(range(3), desc="drawing", leave=False):
        clock.seconds += 6
    (line,) = log.getvalue().splitlines()
    assert line.startswith("drawing:  67%")
    assert "\r" not in log.getvalue()


def test_iteration_yields_every_item_and_counts_it(clock: Clock, use_stderr: UseStderr) -> None:
    log = use_stderr(io.StringIO())
    assert list(ProgressBar(iter("abc"), unit="letter")) == ["a", "b", "c"]
    assert log.getvalue().startswith("3letter [00:00, ")

    bar = ProgressBar("abc", unit="letter")
    for letter in bar:
        if letter == "b":
            break
    bar.close()
    assert log.getvalue().splitlines()[-1].startswith(" 33%")
    assert log.getvalue().count("\n") == 2


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_disabled_bar_prints_nothing(clock: Clock, use_stderr: UseStderr, stream: type[io.StringIO]) -> None:
    output = use_stderr(stream())
    with ProgressBar(total=3, disable=True) as bar:
        clock.seconds += 60
        bar.update(3)
        bar.set_postfix_str("done")
    assert list(ProgressBar("abc", disable=True)) == ["a", "b", "c"]
    assert output.getvalue() == ""


def test_terminal_is_redrawn_at_most_twice_a_second(clock: Clock, use_stderr: UseStderr) -> None:
    terminal = use_stderr(Terminal())
    with ProgressBar(total=40, unit="step", desc="playing") as bar:
        for _ in range(40):
            clock.seconds += 0.125
            bar.update()
    drawings = [drawing for drawing in terminal.getvalue().split("\r") if drawing.startswith("playing")]
    assert 10 <= len(drawings) <= 12  # one at the start, one every half second, one at the end
    assert terminal.getvalue().endswith("\n")
    assert terminal.getvalue().count("\n") == 1


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
@pytest.mark.parametrize("function", ["_supports_unicode", "EMA", "tqdm.status_printer"])
def test_interrupt_in_the_constructor_leaves_no_error(
    use_stderr: UseStderr, stream: type[io.StringIO], function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = use_stderr(stream())

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"tqdm.std.{function}", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ProgressBar(total=3)
    gc.collect()  # pytest turns an exception in ``__del__`` into a failure
    assert output.getvalue() == ""
