"""The first seconds of every command: options are read before anything heavy is imported, and signals are handled."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.scripts.commands import SCRIPTS, hear_interrupts

COMMANDS = sorted(
    str(path.relative_to(SCRIPTS)) for path in SCRIPTS.rglob("*.py") if 'if __name__ == "__main__"' in path.read_text()
)

HEAVY = (
    *("PIL", "ale_py", "av", "cv2", "einops", "gymnasium", "h5py", "huggingface_hub", "markdown", "matplotlib"),
    *("minari", "pyarrow", "ray", "requests", "safetensors", "scipy", "tensorboard", "torch", "transformers"),
)

PACKAGES = (
    "atari_dt",
    *(f"atari_dt.{name}" for name in ("environment", "evaluation", "games", "methods", "model", "training")),
)

# Call every command in one process: each adds its modules to those of the commands before it.
PROGRAM = """
import contextlib, importlib, io, json, runpy, sys
from pathlib import Path

heavy, packages, *scripts = map(json.loads, sys.argv[1:])
results = {}
for package in packages:
    importlib.import_module(package)
    results[package] = sorted(set(heavy) & set(sys.modules))
for script in scripts:
    sys.path.insert(0, str(Path(script).parent))
    for option in ("--help", "--no-such-option"):
        sys.argv = [script, option]
        status, output = 0, io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                runpy.run_path(script, run_name="__main__")
            except SystemExit as stop:
                status = stop.code or 0
        results[f"{script} {option}"] = [status, "usage" in output.getvalue().lower()]
        results[script] = sorted(set(heavy) & set(sys.modules))
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def start_ups() -> dict[str, Any]:
    scripts = [json.dumps(str(SCRIPTS / command)) for command in COMMANDS]
    program = [sys.executable, "-c", PROGRAM, json.dumps(HEAVY), json.dumps(PACKAGES), *scripts]
    results = json.loads(subprocess.run(program, stdout=subprocess.PIPE, check=True).stdout)
    assert isinstance(results, dict)
    return results


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_read_before_anything_heavy_is_imported(start_ups: dict[str, Any], command: str) -> None:
    script = str(SCRIPTS / command)
    assert start_ups[f"{script} --help"] == [0, True]
    assert start_ups[f"{script} --no-such-option"][0] == 2
    assert start_ups[script] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_imports_nothing_heavy(start_ups: dict[str, Any], package: str) -> None:
    assert start_ups[package] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_first_line_handles_signals(command: str) -> None:
    docstring, *statements = ast.parse((SCRIPTS / command).read_text()).body
    assert isinstance(docstring, ast.Expr)
    first = [line for line in map(ast.unparse, statements) if line != "from __future__ import annotations"][:2]
    assert first == ["from atari_dt.interrupts import exit_on_interrupt", "exit_on_interrupt(__name__)"]


def call_with_module(directory: Path, name: str, content: str, *command: object) -> subprocess.CompletedProcess[str]:
    """Call a command that imports another module than the one of that name."""
    (directory / f"{name}.py").write_text(content)
    script, *options = map(str, command)
    paths = os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(SCRIPTS / script), *options],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": paths},
        preexec_fn=hear_interrupts,
    )


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_during_the_first_imports_ends_the_command(
    tmp_path: Path, command: str, signal_number: signal.Signals
) -> None:
    content = f"import os, time\nos.kill(os.getpid(), {int(signal_number)})\ntime.sleep(60)"
    result = call_with_module(tmp_path, "tyro", content, command, "--help")
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "error: interrupted\n")


@pytest.mark.parametrize("command", ["evaluate.py", "visualize_attention.py"])
def test_a_signal_that_an_import_swallows_ends_the_command(tmp_path: Path, command: str) -> None:
    """Python prints and ignores an exception in a destructor, and in a callback such as importlib's own."""
    content = """
import os, signal, time
class Object:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
Object()
time.sleep(60)
"""
    out = tmp_path / "out"
    result = call_with_module(tmp_path, "torch", content, command, tmp_path, "--out", out)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "error: interrupted\n")
    assert not out.exists()


def test_a_run_of_a_sweep_ends_with_its_parent_even_during_its_imports(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import time\ntime.sleep(60)")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "atari_dt.experiments.run", str(tmp_path / "run")]
    # The pipe to standard input closes at once, as if the parent had been killed.
    result = subprocess.run(command, input=b"", capture_output=True, timeout=30, env=os.environ | {"PYTHONPATH": paths})
    assert (result.returncode, result.stdout, result.stderr) == (1, b"", b"")
