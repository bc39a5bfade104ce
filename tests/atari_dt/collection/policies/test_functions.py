"""Policies that a function of the user makes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from atari_dt.collection.policies.loading import load_function
from atari_dt.games.catalogue import find_game
from replay_data import InputError

BREAKOUT = find_game("Breakout")
STATES = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((4, 84, 84), np.uint8)

MODULE = """
import numpy as np
import torch

number = 3

class Fixed:
    needs_fire = True

    def __init__(self, game, num_actions):
        assert (game, num_actions) == ("Breakout", 4)

    def __call__(self, observations):
        assert observations.dtype == np.uint8 and observations.shape[1:] == (4, 84, 84)
        return observations[:, -1, 0, 0] % 4

def make_torch(game, num_actions):
    return lambda observations: torch.from_numpy(observations)[:, 0, 0, 0].int() % num_actions

def make_list(game, num_actions):
    return lambda observations: [1] * len(observations)

def make_nothing(game, num_actions):
    pass

def make_too_many(game, num_actions, more):
    pass

def make_failing(game, num_actions):
    raise ValueError("no weights")

def policy(actions):
    return lambda game, num_actions: lambda observations: actions

floats = policy(np.zeros(5))
not_numbers = policy([0, 1, 2, 3, float("nan")])
booleans = policy(np.zeros(5, dtype=bool))
too_few = policy([1, 2])
columns = policy(np.zeros((5, 1), dtype=np.int64))
ragged = policy([[1], [1, 2]])
nothing = policy(None)
large = policy([0, 1, 2, 3, 4])
negative = policy([0, 1, 2, 3, -1])

def raising(game, num_actions):
    return lambda observations: 1 / 0

def calling(game, num_actions):
    return lambda observations: np.argmax(observations, 9)
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "agents_here.py").write_text(MODULE)
    (tmp_path / "broken_here.py").write_text("import a_missing_module")
    (tmp_path / "wrong_here.py").write_text("def (")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in ("agents_here", "broken_here", "wrong_here"):
        sys.modules.pop(name, None)


def test_functions_in_the_current_directory_make_policies() -> None:
    policy = load_function("agents_here:Fixed", BREAKOUT, 4)
    assert (policy.name, policy.digest, policy.needs_fire) == ("agents_here:Fixed", "", True)
    for name, expected in (("Fixed", [0, 1, 2, 3, 0]), ("make_torch", [0, 1, 2, 3, 0]), ("make_list", [1] * 5)):
        policy = load_function(f"agents_here:{name}", BREAKOUT, 4)
        actions = policy.choose_actions(STATES)
        assert actions.dtype == np.int64
        assert actions.tolist() == expected
        assert policy.needs_fire == (name == "Fixed")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("agents_here", "'agents_here' is not the name of a function; names look like package.module:function"),
        ("agents_here:", "'agents_here:' is not the name of a function"),
        ("agents here:f", "'agents here:f' is not the name of a function"),
        ("agents_here:f()", r"'agents_here:f\(\)' is not the name of a function"),
        (
            "agents_here.py:Fixed",
            "'agents_here.py:Fixed' names a file, not its module; leave out .py, as in agents_here:",
        ),
        ("missing_here:f", r"the module of missing_here:f cannot be imported \(ModuleNotFoundError: No module named "),
        (
            "broken_here:f",
            r"the module of broken_here:f cannot be imported \(ModuleNotFoundError: No module named 'a_missing_module' "
            r"in broken_here\.py, line 1\); correct it",
        ),
        ("wrong_here:f", r"the module of wrong_here:f cannot be imported \(SyntaxError: invalid syntax"),
        ("agents_here:f", "agents_here has no function f;"),
        ("agents_here:number", "agents_here has no function number;"),
        ("agents_here:make_nothing", "agents_here:make_nothing returned an object of type NoneType;"),
        ("agents_here:make_too_many", r"agents_here:make_too_many failed \(TypeError: make_too_many\(\) missing 1"),
        (
            "agents_here:make_failing",
            r"agents_here:make_failing failed \(ValueError: no weights in agents_here\.py, line 30\);",
        ),
    ],
)
def test_functions_that_make_no_policy_are_refused(name: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"^{reason}") as error:
        load_function(name, BREAKOUT, 4)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "floats",
            r"returned an array of shape \[5\] and dtype float64; it must return an array of shape \[5\] with an "
            "integer from 0 to 3 for each observation",
        ),
        ("not_numbers", r"returned an array of shape \[5\] and dtype float64; it must return an array"),
        ("booleans", r"returned an array of shape \[5\] and dtype bool; it must return an array"),
        ("too_few", r"returned an array of shape \[2\] and dtype int64; it must return an array"),
        ("columns", r"returned an array of shape \[5, 1\] and dtype int64; it must return an array"),
        ("ragged", r"failed \(ValueError: setting an array element with a sequence"),
        ("nothing", r"returned an array of shape \[\] and dtype object; it must return an array"),
        ("large", "returned the action 4; it must return an array of shape .*"),
        ("negative", "returned the action -1; it must return an array of shape .*"),
        ("raising", r"failed \(ZeroDivisionError: division by zero in agents_here\.py, line 46\); correct it"),
        (
            "calling",
            r"failed \(AxisError: axis 9 is out of bounds for array of dimension 4 in agents_here\.py, line 49\)",
        ),
    ],
)
def test_policies_that_return_no_actions_are_refused(name: str, reason: str) -> None:
    policy = load_function(f"agents_here:{name}", BREAKOUT, 4)
    with pytest.raises(InputError, match=f"^the policy of agents_here:{name} {reason}") as error:
        policy.choose_actions(STATES)
    assert "\n" not in str(error.value)
