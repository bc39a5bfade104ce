"""Write files of the JAT dataset, in its schema, as its authors' code did with the library datasets."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from replay_data.episode import Episode

# What datasets 5.2 writes into the metadata of the schema.
_FEATURES = (
    '{"info": {"features": {"image_observations": {"feature": {"_type": "Image"}, "_type": "List"}, '
    '"discrete_actions": {"feature": {"dtype": "int64", "_type": "Value"}, "_type": "List"}, '
    '"rewards": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"}}}}'
)

SCHEMA = pa.schema(
    {
        "image_observations": pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        "discrete_actions": pa.list_(pa.int64()),
        "rewards": pa.list_(pa.float32()),
    },
    {"huggingface": _FEATURES},
)


def stack_frames(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the stacks uint8 ``[T, 84, 84, 4]`` of frames uint8 ``[T, 84, 84]``, the newest frame last."""
    padded = np.concatenate([np.repeat(frames[:1], 3, axis=0), frames])
    return np.stack([padded[start : start + len(frames)] for start in range(4)], axis=-1)


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return an image as a PNG file, as datasets encodes it."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


def make_row(episode: Episode) -> dict[str, list[Any]]:
    """Return an episode as a row of the dataset."""
    assert episode.raw_rewards is not None
    return {
        "image_observations": [{"bytes": encode_png(stack), "path": None} for stack in stack_frames(episode.frames)],
        "discrete_actions": episode.actions.tolist(),
        "rewards": episode.raw_rewards.tolist(),
    }


def write_jat(file: Path, rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA, **options: Any) -> Path:
    """Write rows as a file of the dataset, with the options of ``pyarrow.parquet.write_table``; return its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), file, **options)
    return file
