"""Convert a checkpoint of the original code, so that the other commands can evaluate and visualize it."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

from pathlib import Path
from typing import Literal

import tyro

from atari_dt.command_line import format_command, run
from atari_dt.config import Conditioning
from replay_data import InputError


def main(
    checkpoint: tyro.conf.Positional[Path],
    game: str,
    out: Path,
    max_return: float | None = None,
    num_heads: int = 8,
    method: Literal["dt", "bc"] = "dt",
) -> None:
    """Convert a state dict of github.com/kzl/decision-transformer, without executing code from the file.

    Args:
        checkpoint: File of torch.save (.pth, .pt, .ckpt) or safetensors with the network's weights. They may be inside
            other dictionaries, beside an optimizer, and have prefixes such as `module.`.
        game: Game that the network was trained on, which the file does not contain.
        out: Checkpoint directory to create.
        max_return: Largest return of the training data, which evaluate.py needs for return multiples. (The paper's
            target returns are 90 for Breakout, 2500 for Qbert, 20 for Pong and 1450 for Seaquest.)
        num_heads: Number of attention heads, which the file does not contain.
        method: `dt` for the original's model_type reward_conditioned, `bc` (behavior cloning) for naive.
    """
    from atari_dt.environment.python_env import action_meanings
    from atari_dt.evaluation.target_returns import is_target_return
    from atari_dt.games.catalogue import find_game
    from atari_dt.model import DatasetInfo, DecisionTransformer

    if max_return is not None and not is_target_return(max_return):
        raise InputError(f"`max_return` must be a finite number of magnitude 3.4e38 at most, not {max_return:g}")
    found = find_game(game)
    meanings = action_meanings(found)
    conditioning: Conditioning = "return" if method == "dt" else "none"
    model = DecisionTransformer.from_original_checkpoint(checkpoint, num_heads, conditioning)
    if model.num_actions != len(meanings):
        raise InputError(
            f"{checkpoint} has {model.num_actions} actions, but {found.name} has {len(meanings)}; "
            "set `game` to the game that it was trained on"
        )
    model.dataset = DatasetInfo(
        found.name, tuple(meanings), reward_clipping=True, sticky_actions=0.25, max_return=max_return
    )
    model.save_pretrained(out)
    if not model.config.conditioned:
        targets: list[str] = []
    elif max_return is not None:
        targets = ["--return-multiples", "1"]
    else:
        targets = ["--target-returns", "R" if found.paper is None else f"{found.paper.target_return:g}"]
    print(f"written; next: {format_command('evaluate.py', out, *targets)}")
    if "R" in targets:
        print("R: a target return in clipped rewards, such as the largest return of the training data")


if __name__ == "__main__":
    run(main)
