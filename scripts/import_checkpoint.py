"""Turn a checkpoint of the original code into one of this project, to be evaluated and looked into like any other."""

import math
from pathlib import Path

import tyro

from atari_dt.command_line import run
from atari_dt.config import Conditioning
from atari_dt.environment.python_env import action_meanings
from atari_dt.games.catalogue import find_game
from atari_dt.model import DatasetInfo, DecisionTransformer
from replay_data import InputError


def main(
    checkpoint: tyro.conf.Positional[Path],
    game: str,
    out: Path,
    max_return: float | None = None,
    num_heads: int = 8,
    conditioning: Conditioning = "return",
) -> None:
    """Read the state dict of a network of github.com/kzl/decision-transformer; nothing in the file is executed.

    Args:
        checkpoint: The .pth file.
        game: That it was trained on; the file does not say.
        out: Directory of the checkpoint, to be created.
        max_return: The largest return of its data, if evaluate.py is to take multiples of it. (The paper's targets are
            90 for Breakout, 2500 for Qbert, 20 for Pong and 1450 for Seaquest.)
        num_heads: Attention heads; the file does not say.
        conditioning: `return` for the original's model_type reward_conditioned, `none` for naive.
    """
    if max_return is not None and not math.isfinite(max_return):
        raise InputError(f"the largest return must be a finite number, not {max_return}")
    found = find_game(game)
    meanings = action_meanings(found)
    model = DecisionTransformer.from_original_checkpoint(checkpoint, num_heads, conditioning)
    if model.num_actions != len(meanings):
        raise InputError(
            f"{checkpoint} chooses among {model.num_actions} actions, but {found.name} has {len(meanings)}; "
            "give the --game that it plays"
        )
    model.dataset = DatasetInfo(
        found.name, tuple(meanings), reward_clipping=True, sticky_actions=0.25, max_return=max_return
    )
    model.save_pretrained(out)
    asked = "" if conditioning == "none" else "--target-returns 90" if max_return is None else "--return-multiples 1"
    print(f"written; next: python scripts/evaluate.py {out} {asked}")


if __name__ == "__main__":
    run(main)
