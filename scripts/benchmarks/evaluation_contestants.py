"""What `benchmark_evaluation` measures: this project and the original code, playing."""

from __future__ import annotations

import io
import sys
import time
import types
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import ale_py
import numpy as np
import torch
from ale_py import roms
from benchmark_tools import original_network

from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.vector_env import AleVectorEnv
from atari_dt.evaluation import DecisionTransformerPolicy, evaluate_policy
from atari_dt.games.catalogue import Game
from atari_dt.hardware import synchronize
from atari_dt.interpretation.tracing import TransformerTracingPolicy
from atari_dt.model import DatasetInfo, DecisionTransformer
from atari_dt.policies.policy import Policy
from atari_dt.policies.predictors import WindowPredictor
from atari_dt.policies.protocol import EvaluationProtocol

TARGET_RETURN = 90.0
MAX_TIMESTEP = 2000


def play(
    model: DecisionTransformer,
    game: Game,
    num_envs: int,
    episodes_per_env: int,
    max_steps: int,
    num_target_returns: int = 0,
    cache: bool = False,
) -> dict[str, float]:
    """Play episodes; return steps/s and the shares of time in the emulator, the encoder and the transformer.

    If ``num_target_returns`` is positive, also trace the attention weights and the policy under that many target
    returns. With ``cache``, keep keys and values of earlier steps.
    """
    device = next(model.parameters()).device
    seconds = dict.fromkeys(("emulator", "encoder", "transformer"), 0.0)

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            synchronize(device)
            start = time.perf_counter()
            result = function(*args, **options)
            synchronize(device)
            seconds[part] += time.perf_counter() - start
            return result

        return call

    env = AleVectorEnv(game, num_envs, EnvironmentConfig.with_max_steps(max_steps))
    model.dataset = DatasetInfo(game.name, tuple(env.action_meanings), True, 0.25, TARGET_RETURN)
    protocol = EvaluationProtocol(cache="on" if cache else "off")
    policy = DecisionTransformerPolicy(model, num_envs, protocol, keep_last_step=num_target_returns > 0)
    predictor = policy._predictor
    evaluated_policy: Policy = policy
    if num_target_returns:
        shifts = np.arange(num_target_returns, dtype=np.float32)
        evaluated_policy = TransformerTracingPolicy(policy, model.config, shifts, played_index=0)
    for owner, method, part in (
        (env, "reset", "emulator"),
        (env, "restart", "emulator"),
        (env, "step", "emulator"),
        (policy, "_encode", "encoder"),
        (predictor, "_run" if isinstance(predictor, WindowPredictor) else "predict", "transformer"),
    ):
        setattr(owner, method, timed(part, getattr(owner, method)))
    start = time.perf_counter()
    (result,) = evaluate_policy(
        evaluated_policy, env, [TARGET_RETURN], episodes_per_env * num_envs, True, 0, show_progress=False
    )
    total = time.perf_counter() - start
    shares = {part: value / total for part, value in seconds.items()}
    return {"steps_per_s": int(result.lengths.sum()) / total, **shares, "rest": 1 - sum(shares.values())}


def save_weights(code: Path, rom: str, num_actions: int, context_length: int, weights: Path) -> None:
    """Save fresh weights of the original code's network."""
    torch.manual_seed(0)
    torch.save(original_network(code, num_actions, 3 * context_length, MAX_TIMESTEP).state_dict(), weights)


def play_original(code: Path, rom: str, num_actions: int, context_length: int, weights: Path) -> dict[str, float]:
    """Play ten episodes with the original code; return steps/s.

    ale_py replaces atari_py, which can no longer be installed, and a CPU replaces the GPU that the code names.
    """

    class ALEInterface(ale_py.ALEInterface):
        def setInt(self, key: str, value: float) -> None:
            super().setInt(key, int(value))  # the original code passes 108e3

    sys.modules["atari_py"] = stand_in = types.ModuleType("atari_py")
    vars(stand_in).update(ALEInterface=ALEInterface, get_game_path=roms.get_rom_path)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    network = original_network(code, num_actions, 3 * context_length, MAX_TIMESTEP).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    from mingpt import trainer_atari  # type: ignore[import-not-found]

    steps = 0
    step = trainer_atari.Env.step

    def counted_step(self: Any, action: int) -> Any:
        nonlocal steps
        steps += 1
        return step(self, action)

    class Args(trainer_atari.Args):  # type: ignore[misc]
        def __init__(self, game: str, seed: int):
            super().__init__(game, seed)
            self.device = torch.device("cpu")

    trainer = trainer_atari.Trainer.__new__(trainer_atari.Trainer)
    trainer.device = "cpu"
    trainer.model = torch.nn.Module()
    trainer.model.module = network
    trainer.config = SimpleNamespace(game=rom, seed=0, max_timestep=MAX_TIMESTEP)
    with (
        patch.object(trainer_atari, "Args", Args),
        patch.object(trainer_atari.Env, "step", counted_step),
        redirect_stdout(io.StringIO()),
    ):
        start = time.perf_counter()
        trainer.get_returns(TARGET_RETURN)
        return {"steps_per_s": steps / (time.perf_counter() - start)}
