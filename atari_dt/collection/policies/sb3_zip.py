"""Read zip files of Stable-Baselines3 and sb3-contrib without executing anything from them.

`BaseAlgorithm.save` writes a zip with the state dict of the policy, ``policy.pth``, and the attributes of the
algorithm, ``data``, which is a JSON object. An attribute that JSON cannot express is an object in it: its pickle, under
the key ``:serialized:``, and the texts of its own attributes. The texts are read, the pickles never.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from atari_dt.model.loading import LOADING_ERRORS, PickledObjectsError, SmallReads, explain_unreadable, load_torch
from atari_dt.model.weights import check_tensor, list_names
from replay_data.json_fields import parse_json, read_dataclass, read_object
from replay_data.storage.regular_files import MAX_JSON_BYTES, check_regular_file

MAX_ZIP_BYTES = 512 << 20  # 15 times an agent with its target network and its optimizer

_MAX_POLICY_BYTES = 128 << 20  # 10 times a policy with its target network

_CHUNK_BYTES = 1 << 20

_READING_ERRORS = (*LOADING_ERRORS, zipfile.BadZipFile, zlib.error, struct.error)


@dataclass(frozen=True)
class PolicySettings:
    """Settings of a policy that its state dict does not show; the default values are those of ``CnnPolicy``.

    Attributes:
        policy_module: Module of the class of the policy.
        features_extractor: Text of the class that turns pixels into features.
        activation: Text of the class of the activation of hidden layers; empty for the algorithm's default.
        normalize_images: Whether pixels are divided by 255.
        num_quantiles: Number of quantiles of QR-DQN.
    """

    policy_module: str = "stable_baselines3"
    features_extractor: str = "<class 'stable_baselines3.common.torch_layers.NatureCNN'>"
    activation: str = ""
    normalize_images: bool = True
    num_quantiles: int = 200

    def __post_init__(self) -> None:
        if self.num_quantiles < 1:
            raise ValueError(f"n_quantiles is {self.num_quantiles}")

    @staticmethod
    def from_data(content: Any) -> PolicySettings:
        """Read the settings from the value of ``data``.

        Raises:
            TypeError, ValueError: If it is not what Stable-Baselines3 writes.
        """
        data = read_object(content)
        policy_class = read_object(data.get("policy_class", {}))
        kwargs = read_object(data.get("policy_kwargs", {}))
        values = {
            "policy_module": policy_class.get("__module__"),
            "features_extractor": kwargs.get("features_extractor_class"),
            "activation": kwargs.get("activation_fn"),
            "normalize_images": kwargs.get("normalize_images"),
            "num_quantiles": kwargs.get("n_quantiles"),
        }
        return read_dataclass({name: value for name, value in values.items() if value is not None}, PolicySettings)


@dataclass(frozen=True)
class SavedAgent:
    """Content of a zip file.

    Attributes:
        weights: State dict of the policy.
        settings: Settings of the policy; None if the file has no ``data``.
        digest: SHA-256 of the file, hexadecimal.
    """

    weights: Mapping[str, Tensor]
    settings: PolicySettings | None
    digest: str


def read_zip(path: Path) -> SavedAgent:
    """Read a file that Stable-Baselines3 saved.

    Raises:
        InputError, FileNotFoundError: As `check_regular_file` does for a file of more than `MAX_ZIP_BYTES`.
        ValueError: If the file is damaged or another one.
    """
    check_regular_file(path, MAX_ZIP_BYTES)
    with path.open("rb") as file:
        digest = _hash(file)
        try:
            archive = zipfile.ZipFile(SmallReads(file))
        except _READING_ERRORS as error:
            raise ValueError(explain_unreadable(file, "a zip file of Stable-Baselines3")) from error
        with archive:
            policy = _read_member(archive, "policy.pth", _MAX_POLICY_BYTES)
            data = _read_member(archive, "data", MAX_JSON_BYTES)
    if policy is None:
        raise ValueError("it is a zip file without policy.pth, which Stable-Baselines3 always writes")
    try:
        settings = None if data is None else PolicySettings.from_data(parse_json(data.getvalue()))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its data is not what Stable-Baselines3 writes ({error})") from error
    return SavedAgent(_load_policy(policy), settings, digest)


def _hash(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _read_member(archive: zipfile.ZipFile, name: str, max_bytes: int) -> io.BytesIO | None:
    """Return the content of a file in a zip; None if it has no such file.

    Raises:
        ValueError: If it is damaged, has more than ``max_bytes`` bytes, or is compressed by another method than
            deflate, whose output `zipfile` can limit.
    """
    if name not in archive.namelist():
        return None
    member = archive.getinfo(name)
    if member.file_size > max_bytes:
        raise ValueError(f"its {name} has {member.file_size:,} bytes, but one of an agent has at most {max_bytes:,}")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"its {name} is compressed by a method that Stable-Baselines3 does not use")
    content = io.BytesIO()
    try:
        with archive.open(member) as file:  # which returns at most file_size bytes, and then compares the checksum
            while chunk := file.read(_CHUNK_BYTES):
                content.write(chunk)
    except _READING_ERRORS as error:
        raise ValueError(f"its {name} is damaged") from error
    return content


def _load_policy(file: io.BytesIO) -> dict[str, Tensor]:
    """Return the state dict in ``policy.pth``.

    Raises:
        ValueError: If it is damaged or something else.
    """
    try:
        weights = load_torch(file)
    except PickledObjectsError as error:
        raise ValueError(f"its policy.pth is not a state dict: {error}") from error
    except ValueError as error:
        raise ValueError(f"its policy.pth is damaged: {error}") from error
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise ValueError("its policy.pth is not a state dict")
    for name, tensor in weights.items():
        check_tensor(tensor, list_names([name]))
    return dict(weights)
