"""Videos of episodes that were played, with score, return-to-go and action drawn in.

An evaluation keeps the actions of its episodes and the seeds of the emulator; a video plays them again.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.python_env import AleEnv
from atari_dt.evaluation.results import EvaluatedEpisode
from atari_dt.games.catalogue import Game

STEPS_PER_SECOND = 15  # 60 emulator frames a second, 4 of them a step

_SCALE = 2

_PANEL = 64  # height of the text beneath the screen, in pixels

_GIF_FRAMES = 200

Pixels = npt.NDArray[np.uint8]


def replay(
    game: Game,
    config: EnvironmentConfig,
    emulator_seed: int,
    episode: EvaluatedEpisode,
    action_meanings: tuple[str, ...],
    show_returns_to_go: bool = True,
) -> Iterator[Pixels]:
    """Play an episode again and yield a picture for each step, and one of how it ended.

    Args:
        game: that was played.
        config: as it was played.
        emulator_seed: of the episode.
        episode: what was done.
        action_meanings: name of each action index.
        show_returns_to_go: whether the player had any.

    Yields:
        uint8 ``[height, width, 3]``: the screen, twice as large, above its score, return-to-go and action.
    """
    steps = len(episode.actions)
    for step, (screen, score) in enumerate(screens(game, config, emulator_seed, episode.actions)):
        if step == steps:
            yield _picture(screen, f"score {score:g}", f"end, {steps} steps")
            return
        to_go = f"return-to-go {episode.returns_to_go[step]:.4g}" if show_returns_to_go else ""
        yield _picture(screen, f"score {score:g}", f"step {step}", to_go, action_meanings[episode.actions[step]])


def screens(
    game: Game, config: EnvironmentConfig, emulator_seed: int, actions: npt.NDArray[Any]
) -> Iterator[tuple[Pixels, float]]:
    """Play an episode again and yield what each action was chosen at, and how it ended.

    Args:
        game: as in `replay`.
        config: likewise.
        emulator_seed: likewise.
        actions: ``[steps]``, their indices.

    Yields:
        ``(screen, score)``: uint8 ``[210, 160, 3]`` (higher in some games), and the points until then.
    """
    emulator = AleEnv(game, config, emulator_seed)
    if config.second_reset:
        emulator.reset()
    score = 0.0
    for action in actions:
        yield emulator.screen, score
        score += emulator.step(int(action))[0]
    yield emulator.screen, score


class Preview:
    """A short GIF of pictures that pass by, for TensorBoard; a long episode is shown in leaps."""

    def __init__(self) -> None:
        self._kept: list[Image.Image] = []
        self._leap = 1

    def watch(self, frames: Iterable[Pixels]) -> Iterator[Pixels]:
        """Yield the pictures, uint8 ``[height, width, 3]`` each, and keep some."""
        for step, pixels in enumerate(frames):
            if step % self._leap == 0:
                small = Image.fromarray(pixels).resize((pixels.shape[1] // 2, pixels.shape[0] // 2))
                self._kept.append(small.quantize(64, Image.Quantize.FASTOCTREE))
                if len(self._kept) > _GIF_FRAMES:
                    self._kept, self._leap = self._kept[::2], 2 * self._leap
            yield pixels

    def gif(self) -> bytes:
        """The content of a GIF file of what was kept, at half the size."""
        content = io.BytesIO()
        first, *others = self._kept
        first.save(content, "GIF", save_all=True, append_images=others, duration=1000 // STEPS_PER_SECOND, loop=0)
        return content.getvalue()


def write_video(path: Path, frames: Iterable[Pixels]) -> None:
    """Encode pictures as an MP4 file that browsers play (H.264).

    Args:
        path: the file.
        frames: uint8 ``[height, width, 3]`` each, width and height even.

    Raises:
        OSError: if the file cannot be written.
    """
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=STEPS_PER_SECOND, options={"crf": "20", "preset": "veryfast"})
            stream.pix_fmt = "yuv420p"
            for step, pixels in enumerate(frames):
                if step == 0:
                    stream.height, stream.width = pixels.shape[:2]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _picture(screen: Pixels, *texts: str) -> Pixels:
    height, width = _SCALE * screen.shape[0], _SCALE * screen.shape[1]
    picture = np.zeros((height + _PANEL, width, 3), dtype=np.uint8)
    picture[:height] = screen.repeat(_SCALE, axis=0).repeat(_SCALE, axis=1)
    for i, text in enumerate(texts):
        place = 8 + (i % 2) * (width // 2 + 12), height + 24 + (i // 2) * 28
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (235, 235, 235), 1, cv2.LINE_AA)
    return picture
