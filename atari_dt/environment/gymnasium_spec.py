"""Describe this project's environment to Gymnasium, so that other libraries can make it."""

from __future__ import annotations

from typing import Any

from atari_dt.environment.config import FRAME_SKIP, MAX_FRAMES
from atari_dt.games.catalogue import Game


def gymnasium_spec(
    game: Game,
    *,
    sticky_actions: float,
    max_frames: int = MAX_FRAMES,
    max_pooled: bool = True,
    num_stacked_frames: int = 4,
) -> str:
    """Return the JSON of the `gymnasium.envs.registration.EnvSpec` of a game with a frame skip of 4.

    The environment that Gymnasium makes of it observes and rewards what `atari_dt.environment.python_env.AleEnv` does.

    Args:
        game: The game.
        sticky_actions: Probability, at each emulator frame, that the emulator repeats the previous action.
        max_frames: Emulator frames after which an episode is truncated.
        max_pooled: Whether a frame is the maximum of the last two emulator frames, or only the last one.
        num_stacked_frames: Number of frames of an observation ``[num_stacked_frames, 84, 84]``. Frames before the start
            of an episode are zeros.
    """
    from gymnasium.envs.registration import EnvSpec, WrapperSpec  # reading options must not wait for it

    def wrapper(name: str, **kwargs: Any) -> WrapperSpec:
        return WrapperSpec(name, f"gymnasium.wrappers:{name}", kwargs)

    # AtariPreprocessing takes the maximum of the last two of the frames that it skips itself.
    skipped_by_emulator, skipped_by_wrapper = (1, FRAME_SKIP) if max_pooled else (FRAME_SKIP, 1)
    return EnvSpec(
        id=f"ALE/{game.rom.title().replace('_', '')}-v5",  # as ALE registers it
        entry_point="ale_py.env:AtariEnv",
        kwargs={
            "game": game.rom,
            "obs_type": "grayscale",
            "frameskip": skipped_by_emulator,
            "repeat_action_probability": sticky_actions,
            "full_action_space": False,
            "max_num_frames_per_episode": max_frames,
        },
        additional_wrappers=(
            wrapper("AtariPreprocessing", noop_max=0, frame_skip=skipped_by_wrapper, screen_size=84),
            wrapper("FrameStackObservation", stack_size=num_stacked_frames, padding_type="zero"),
        ),
    ).to_json()
