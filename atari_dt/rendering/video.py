"""Videos of evaluated episodes, with score, return-to-go and action below the screen.

An evaluation keeps the actions and the emulator seed of every episode; `replay` plays the episode again.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from atari_dt.environment.config import EnvironmentConfig, Frames
from atari_dt.environment.python_env import AleEnv
from atari_dt.evaluation.results import EvaluatedEpisode
from atari_dt.games.catalogue import Game
from replay_data.opencv import cv2

STEPS_PER_SECOND = 15  # at 60 emulator frames per second and 4 frames per step

_SCALE = 2

_PANEL_HEIGHT = 64  # of the text below the screen, in pixels

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
    """Play an episode again and yield one picture for each step, and one of the end.

    Args:
        game: Game of the episode.
        config: Settings of the environment.
        emulator_seed: Emulator seed of the episode.
        episode: Actions and returns-to-go.
        action_meanings: Name of each action index.
        show_returns_to_go: Whether to show the return-to-go; False for a model that has none.

    Yields:
        Pictures, uint8 ``[height, width, 3]``: the screen at twice its size, with score, step, return-to-go and action
        below it.
    """
    num_steps = len(episode.actions)
    for step, (screen, _, score) in enumerate(screens(game, config, emulator_seed, episode.actions)):
        if step == num_steps:
            yield _draw(screen, f"score {score:g}", f"end, {num_steps} steps")
            return
        return_to_go = f"return-to-go {episode.returns_to_go[step]:.4g}" if show_returns_to_go else ""
        yield _draw(screen, f"score {score:g}", f"step {step}", return_to_go, action_meanings[episode.actions[step]])


def screens(
    game: Game, config: EnvironmentConfig, emulator_seed: int, actions: npt.NDArray[Any]
) -> Iterator[tuple[Pixels, Frames, float]]:
    """Play an episode again and yield the screen, frame and score before each action, and at the end.

    Args:
        game: Game of the episode.
        config: Settings of the environment.
        emulator_seed: Emulator seed of the episode.
        actions: Action indices, ``[steps]``.

    Yields:
        ``(screen, frame, score)``: RGB screen, uint8 ``[210, 160, 3]`` (taller in some games), frame as models of
        frames observe it, uint8 ``[84, 84]``, and score so far, in points.
    """
    emulator = AleEnv(game, config, emulator_seed)
    if config.second_reset:
        emulator.reset()
    score = 0.0
    for action in actions:
        yield emulator.screen, emulator.frame, score
        score += emulator.step(int(action))[0]
    yield emulator.screen, emulator.frame, score


class Preview:
    """Short GIF of a video, for TensorBoard; of a long video, it keeps every n-th picture."""

    def __init__(self) -> None:
        self._images: list[Image.Image] = []
        self._stride = 1

    def watch(self, pictures: Iterable[Pixels]) -> Iterator[Pixels]:
        """Yield the pictures, uint8 ``[height, width, 3]`` each, and keep some of them at half the size."""
        for step, pixels in enumerate(pictures):
            if step % self._stride == 0:
                small = Image.fromarray(pixels).resize((pixels.shape[1] // 2, pixels.shape[0] // 2))
                self._images.append(small.quantize(64, Image.Quantize.FASTOCTREE))
                if len(self._images) > _GIF_FRAMES:
                    self._images, self._stride = self._images[::2], 2 * self._stride
            yield pixels

    def gif(self) -> bytes:
        """Return the content of a GIF file of the kept pictures."""
        content = io.BytesIO()
        first, *rest = self._images
        first.save(content, "GIF", save_all=True, append_images=rest, duration=1000 // STEPS_PER_SECOND, loop=0)
        return content.getvalue()


def write_video(path: Path, pictures: Iterable[Pixels]) -> None:
    """Encode pictures as an MP4 file that browsers play (H.264).

    Args:
        path: File to write.
        pictures: Pictures, uint8 ``[height, width, 3]`` each, with even width and height.

    Raises:
        OSError: If the file cannot be written.
    """
    import av  # FFmpeg, which only videos need

    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=STEPS_PER_SECOND, options={"crf": "20", "preset": "veryfast"})
            stream.pix_fmt = "yuv420p"
            for step, pixels in enumerate(pictures):
                if step == 0:
                    stream.height, stream.width = pixels.shape[:2]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _draw(screen: Pixels, *texts: str) -> Pixels:
    """Return the enlarged screen with up to four texts below it, in two columns."""
    height, width = _SCALE * screen.shape[0], _SCALE * screen.shape[1]
    picture = np.zeros((height + _PANEL_HEIGHT, width, 3), dtype=np.uint8)
    picture[:height] = screen.repeat(_SCALE, axis=0).repeat(_SCALE, axis=1)
    for i, text in enumerate(texts):
        origin = 8 + (i % 2) * (width // 2 + 12), height + 24 + (i // 2) * 28
        cv2.putText(picture, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (235, 235, 235), 1, cv2.LINE_AA)
    return picture
