"""How commands end."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from atari_dt import command_line
from replay_data import InputError
from replay_data.progress import ProgressBar


def test_the_error_is_the_last_line_even_after_a_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """An interruption within the bar's constructor leaves a bar that nobody closes."""

    def main() -> None:
        bar = ProgressBar(total=2, desc="reading")
        bar.update()
        raise KeyboardInterrupt("nothing was kept")

    previous = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stop:
            command_line.run(main, parse=False)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert stop.value.code == 130
    *before, last = capsys.readouterr().err.splitlines()
    assert any("reading" in line for line in before)
    assert last == "error: interrupted; nothing was kept"


def test_parameters_that_an_error_names_are_printed_as_options(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise InputError("`num_steps` must be at least 1, not 0; see `seed`")

    with pytest.raises(SystemExit) as stop:
        command_line.run(main, parse=False)
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: --num-steps must be at least 1, not 0; see --seed\n"


def test_a_suggested_path_does_not_exist(tmp_path: Path) -> None:
    suggested = []
    for _ in range(3):
        suggested.append(command_line.unused_path(tmp_path / "v1.0").name)
        (tmp_path / suggested[-1]).symlink_to("nowhere")
    assert suggested == ["v1.0", "v1.0-2", "v1.0-3"]


def test_a_suggested_command_is_split_by_the_shell_into_its_arguments() -> None:
    paths = [Path("sp ace/it's $HOME"), Path("-out"), Path("runs/plain")]
    command = command_line.format_command("evaluate.py", *paths, "--target-returns", "-7.5")
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True
    ).stdout.splitlines()
    assert words == [
        *("python", "scripts/evaluate.py", "sp ace/it's $HOME", "./-out", "runs/plain"),
        *("--target-returns", "-7.5"),
    ]
