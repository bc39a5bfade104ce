"""Turn names of trained agents into policies."""

from __future__ import annotations

import importlib
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atari_dt.collection.policies.hub import download_agent
from atari_dt.collection.policies.policy import TrainedPolicy
from atari_dt.collection.policies.sb3_agent import read_agent
from atari_dt.environment.config import Frames
from atari_dt.games.catalogue import Game, find_game
from atari_dt.hardware import find_device
from replay_data import InputError
from replay_data.errors import summarize_error

_PROJECT = Path(__file__).parents[2]  # the package atari_dt


def load_policies(names: Sequence[str], game: Game, num_actions: int, device: str = "auto") -> list[TrainedPolicy]:
    """Load agents of Stable-Baselines3.

    Args:
        names: Files of `BaseAlgorithm.save`, such as ``"dqn.zip"``, and repositories on the Hugging Face Hub, such as
            ``"sb3/dqn-BreakoutNoFrameskip-v4"``, or ``"owner/name@revision"`` for a branch, a tag or a commit.
        game: The game that the agents shall play.
        num_actions: Size of the game's minimal action set.
        device: Device of the networks; see `find_device`.

    Returns:
        The policies, in the order of their names. The name of one from the Hub contains its commit.

    Raises:
        InputError: If an agent cannot be read, or is made for another game, action set, observation or algorithm.
    """
    torch_device = find_device(device)
    policies = []
    for name in names:
        path = Path(name)
        if not (os.path.lexists(path) or path.suffix == ".zip"):
            _check_game(name, name, game)
            name, path = download_agent(name)
        _check_game(name, path.name, game)
        policies.append(read_agent(path, name, game, num_actions, torch_device))
    return policies


def _check_game(name: str, text: str, game: Game) -> None:
    """Check that the environments whose ids are in a text, such as ``PongNoFrameskip-v4``, are those of a game.

    Args:
        name: Name of the agent.
        text: Name of the agent's repository or file.
        game: The game.

    Raises:
        InputError: If one is that of another game.
    """
    for title in re.findall(r"([A-Za-z0-9]+?)(?:NoFrameskip|Deterministic)?-v\d", text):
        try:
            other = find_game(title)
        except InputError:  # not a game
            continue
        if other != game:
            raise InputError(
                f"the agent {name} was trained on {other.name}, not {game.name}, by the name {text}; record that game, "
                "or use another agent"
            )


def load_function(name: str, game: Game, num_actions: int) -> TrainedPolicy:
    """Load a policy that a function makes.

    The function takes the name of the game and the number of actions, and returns the policy: a function from
    observations, uint8 ``[N, 4, 84, 84]``, to actions, integers ``[N]`` (see `ActionFunction`). If it was trained with
    FIRE pressed for it after a reset and a lost life, it has an attribute ``needs_fire``, which is true.

    Example:
        The policy of ``agents:load_network``, with this file ``agents.py`` in the current directory, is a network::

            import torch

            def load_network(game, num_actions):
                network = torch.jit.load(f"{game}.pt").eval()

                def policy(observations):
                    with torch.inference_mode():
                        return network(torch.from_numpy(observations) / 255).argmax(1).numpy()

                return policy

    Args:
        name: The function, such as ``"package.module:function"``. Modules in the current directory are found first, now
            and in later imports.
        game: The game that the policy shall play.
        num_actions: Size of the game's minimal action set.

    Raises:
        InputError: If there is no such function, or it fails. The policy itself raises one where it fails or returns
            something else than actions.
    """
    module_name, _, attribute = name.partition(":")
    if module_name.endswith(".py"):
        raise InputError(
            f"{name!r} names a file, not its module; leave out .py, as in {Path(module_name).stem}:{attribute}"
        )
    if not re.fullmatch(r"\w+(\.\w+)*", module_name) or not attribute.isidentifier():
        raise InputError(f"{name!r} is not the name of a function; names look like package.module:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(
            f"the module of {name} cannot be imported ({_summarize(error)}); correct it, or start the command in "
            "the directory that holds it"
        ) from error
    make_policy = getattr(module, attribute, None)
    if not callable(make_policy):
        raise InputError(f"{module_name} has no function {attribute}; names look like package.module:function")
    try:
        policy = make_policy(game.name, num_actions)
    except Exception as error:
        raise InputError(f"{name} failed ({_summarize(error)}); correct this function") from error
    if not callable(policy):
        raise InputError(
            f"{name} returned an object of type {type(policy).__name__}; it must return a policy, which is a function "
            "from observations to actions"
        )
    needs_fire = bool(getattr(policy, "needs_fire", False))
    return TrainedPolicy(name, "", needs_fire, _CheckedPolicy(name, policy, num_actions))


def _summarize(error: Exception) -> str:
    """Return the type and the message of an error, and the line of the user's code where it occurred.

    The user's code is what belongs neither to this project nor to installed packages nor to Python. The message of a
    SyntaxError names its own line.
    """
    summary = summarize_error(error)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [(Path(frame.filename), frame.lineno) for frame in frames if not _is_library(frame.filename)]
    if not lines or isinstance(error, SyntaxError):
        return summary
    path, line = lines[-1]
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"{summary} in {path}, line {line}"


def _is_library(filename: str) -> bool:
    """Return whether a file of code belongs to this project, an installed package or Python, or is none."""
    installed = (Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return filename.startswith("<") or any(Path(filename).is_relative_to(each) for each in (_PROJECT, *installed))


class _CheckedPolicy:
    """Check the actions of a policy that a function made."""

    def __init__(self, name: str, policy: Callable[[Frames], Any], num_actions: int):
        self._name, self._policy, self._num_actions = name, policy, num_actions

    def __call__(self, observations: Frames) -> npt.NDArray[np.int64]:
        """Return the actions for N states; see `ActionFunction`.

        Raises:
            InputError: If the policy fails, or does not return N integers in the action set.
        """
        try:
            actions = np.asarray(self._policy(observations))
        except Exception as error:
            raise InputError(f"the policy of {self._name} failed ({_summarize(error)}); correct it") from error
        expected = (
            f"an array of shape [{len(observations)}] with an integer from 0 to {self._num_actions - 1} for each "
            "observation"
        )
        if actions.shape != (len(observations),) or actions.dtype.kind not in "iu":
            raise InputError(
                f"the policy of {self._name} returned an array of shape {list(actions.shape)} and dtype "
                f"{actions.dtype}; it must return {expected}"
            )
        outside = actions[(actions < 0) | (actions >= self._num_actions)]
        if len(outside):
            raise InputError(f"the policy of {self._name} returned the action {outside[0]}; it must return {expected}")
        return actions.astype(np.int64)
