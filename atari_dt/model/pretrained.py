"""Save checkpoints, load them, and share them on the Hugging Face Hub."""

from __future__ import annotations

import json
import os
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from safetensors.torch import save
from torch import Tensor, nn

from atari_dt.config import TrainingConfig
from atari_dt.method_config import MethodConfig
from atari_dt.model.checkpoint_config import CHECKPOINT_FORMAT, CheckpointConfig
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.loading import load_safetensors_file
from atari_dt.model.model_card import CardInfo, make_model_card
from atari_dt.model.reported_evaluation import ReportedEvaluation
from atari_dt.model.transformers_config import OWN_KEY, check_settings, is_foreign, own_content
from atari_dt.model.weights import NonFiniteWeightsError, Shapes, check_weights, round_matrices, stored_dtype
from replay_data import InputError
from replay_data.errors import summarize_error
from replay_data.json_fields import read_field
from replay_data.observation import FRAMES, ObservationSpec
from replay_data.storage.atomic import atomic_directory
from replay_data.storage.hub_errors import translate_hub_errors
from replay_data.storage.regular_files import read_json_file

CHECKPOINT_FILES = ("config.json", "model.safetensors")

_MISSING_FILES = f"it needs {' and '.join(CHECKPOINT_FILES)}"

Model = TypeVar("Model", bound="PretrainedModel")


class MissingPackageError(InputError):
    """A network needs a package that is not installed."""


class PretrainedModel(nn.Module, ModelHubMixin):
    """Base class of networks with checkpoints.

    Args:
        config: Config of the method and its network.
        num_actions: Size of the game's action set.
        observation: What the network observes.

    Attributes:
        config_types: Types of the configs that the network is built from.
        weights_metadata: Texts by name that ``model.safetensors`` holds beside the weights.
        max_timestep: Largest timestep with its own embedding; None for a network that reads no timesteps.
        dataset: Summary of the training data; None for an untrained model.
        training_config: Settings the weights were trained with; None if unknown.
        evaluations: Scores that the model card reports, one entry per target return.
        weights_dtype: Dtype in which the checkpoints that the model writes hold its matrices (see `round_matrices`):
            float32, bfloat16 or float16. That of the checkpoint the model was loaded from, or float32. The model
            itself is float32.
    """

    config_types: ClassVar[tuple[type[MethodConfig], ...]]
    weights_metadata: ClassVar[dict[str, str] | None] = None
    max_timestep: int | None = None

    def __init__(self, config: MethodConfig, num_actions: int, observation: ObservationSpec = FRAMES):
        super().__init__()
        self.config = config
        self.num_actions = num_actions
        self.observation = observation
        self.dataset: DatasetInfo | None = None
        self.training_config: TrainingConfig | None = None
        self.evaluations: tuple[ReportedEvaluation, ...] = ()
        self.weights_dtype = torch.float32

    @property
    def checkpoint_config(self) -> CheckpointConfig:
        """The content of the checkpoint's ``config.json``."""
        return CheckpointConfig(
            self.config,
            self.num_actions,
            self.max_timestep,
            self.dataset,
            self.training_config,
            self.evaluations,
            self.observation,
        )

    @classmethod
    @abstractmethod
    def from_config(cls: type[Model], config: CheckpointConfig) -> Model:
        """Return the untrained network that a checkpoint's ``config.json`` describes."""

    @classmethod
    @abstractmethod
    def shapes(cls, config: CheckpointConfig, num_tensors: int) -> Shapes:
        """Return the shape of each tensor of ``model.safetensors``, without allocating them.

        Args:
            config: Content of ``config.json``, whose sizes may be absurd.
            num_tensors: Number of tensors of the weights at hand.

        Raises:
            ValueError: If the network does not fit such weights, or its sizes are impossible.
        """

    @classmethod
    def check_buffers(cls, config: CheckpointConfig, weights: Mapping[str, Tensor]) -> None:
        """Check the tensors of a checkpoint that were computed from data instead of learned.

        Args:
            config: Content of ``config.json``.
            weights: Content of ``model.safetensors``, with the names and shapes of the network.

        Raises:
            ValueError: If such a tensor has values that no data gives.
        """

    def require_dataset(self) -> DatasetInfo:
        """Return the summary of the training data.

        Raises:
            InputError: If the model does not know its dataset.
        """
        if self.dataset is None:
            raise InputError("this model does not know the dataset it was trained on, so there is no game to play")
        return self.dataset

    def save_pretrained(self, save_directory: str | os.PathLike[str], **hub: Any) -> str | None:
        """Write a checkpoint directory with ``config.json``, ``model.safetensors`` and a model card, atomically.

        Args:
            save_directory: Directory to create.
            hub: Options of ``huggingface_hub.ModelHubMixin.save_pretrained``, such as ``repo_id="user/name"`` and
                ``push_to_hub=True``. ``model_card_kwargs`` may have ``license`` and ``commands``; see `CardInfo`.

        Raises:
            InputError: If the directory exists, or a weight is too large for `weights_dtype`.
            OSError: If it cannot be written.
        """
        save_directory = Path(save_directory)
        if os.path.lexists(save_directory):
            raise InputError(f"{save_directory} exists already; choose another directory, or delete it")
        repo_id = hub.pop("repo_id", save_directory.name)
        card = {"repo_id": repo_id, **(hub.pop("model_card_kwargs", None) or {})}
        with atomic_directory(save_directory) as directory:
            return super().save_pretrained(directory, repo_id=repo_id, model_card_kwargs=card, **hub)

    def push_to_hub(self, repo_id: str, **hub: Any) -> str:
        """Upload the checkpoint and its model card to the Hugging Face Hub, and return the URL of the commit.

        Args:
            repo_id: Repository, such as ``"user/name"``; created if it does not exist.
            hub: Options of ``huggingface_hub.ModelHubMixin.push_to_hub``, such as ``private=True``.

        Raises:
            InputError: If the upload fails, or a weight is too large for `weights_dtype`.
        """
        card = {"repo_id": repo_id, **(hub.pop("model_card_kwargs", None) or {})}
        with translate_hub_errors(repo_id, "written to"):
            return str(super().push_to_hub(repo_id, model_card_kwargs=card, **hub))

    def generate_model_card(
        self, *args: Any, repo_id: str, license: str | None = None, commands: Sequence[str] = (), **kwargs: Any
    ) -> ModelCard:
        """Return the model card; `ModelHubMixin` calls this with its ``model_card_kwargs``."""
        num_parameters = sum(parameter.numel() for parameter in self.parameters())
        info = CardInfo(repo_id, num_parameters, _name(self.weights_dtype), license, tuple(commands))
        return make_model_card(self.checkpoint_config, info)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the files of `ModelHubMixin.save_pretrained`."""
        self.write_files(save_directory)

    def write_files(self, directory: Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` to an existing directory."""
        weights = {name: tensor.contiguous() for name, tensor in self._stored_weights().items()}
        (directory / "config.json").write_text(json.dumps(self.checkpoint_json(), indent=2) + "\n")
        (directory / "model.safetensors").write_bytes(save(weights, self.weights_metadata))

    def checkpoint_json(self) -> dict[str, Any]:
        """Return the content of ``config.json``."""
        return self.checkpoint_config.to_json()

    def checkpoint_weights(self) -> Mapping[str, Tensor]:
        """Return the content of ``model.safetensors``."""
        return self.state_dict()

    def _stored_weights(self) -> Mapping[str, Tensor]:
        """Return `checkpoint_weights` in `weights_dtype`.

        Raises:
            InputError: If a value is too large for it.
        """
        weights = self.checkpoint_weights()
        if self.weights_dtype == torch.float32:
            return weights
        try:
            return round_matrices(weights, self.parameters(), self.weights_dtype)
        except NonFiniteWeightsError as error:
            raise InputError(
                f"the weights cannot be written in {_name(self.weights_dtype)}: {error}; write them in float32"
            ) from error

    def load_checkpoint_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Set the weights to what `checkpoint_weights` returned."""
        self.load_state_dict(weights)

    @classmethod
    def from_pretrained(cls: type[Model], pretrained_model_name_or_path: str | os.PathLike[str], **hub: Any) -> Model:
        """Load a checkpoint; the model is on the CPU, in float32 and in evaluation mode.

        Args:
            pretrained_model_name_or_path: Checkpoint directory, or name of a repository on the Hugging Face Hub.
            hub: Options of ``huggingface_hub.snapshot_download``, such as ``revision``.

        Raises:
            InputError: If there is no checkpoint, its format version is unknown, or its files do not match.
        """
        path = find_checkpoint_files(pretrained_model_name_or_path, **hub)
        config = read_checkpoint_config(path)
        if not isinstance(config.model, cls.config_types):
            raise InputError(
                f"{path} is a checkpoint of {config.model.title}, not of a {cls.__name__}; load it with "
                "atari_dt.methods.load_model"
            )
        try:
            weights = load_safetensors_file(path / "model.safetensors")
            check_weights(weights, cls.shapes(config, len(weights)))
            dtype = stored_dtype(weights)
            weights = {name: tensor.float() for name, tensor in weights.items()}
            cls.check_buffers(config, weights)
        except MissingPackageError:
            raise
        except NonFiniteWeightsError as error:
            raise InputError(
                f"the weights of the checkpoint {path} are not finite: {error}; use a checkpoint from before the "
                "training diverged"
            ) from error
        except (InputError, ValueError, KeyError, TypeError) as error:
            raise _damage_error(path, error) from error
        model = cls.from_config(config)
        model.dataset, model.training_config = config.dataset, config.training
        model.evaluations = config.evaluations
        model.weights_dtype = dtype
        model.load_checkpoint_weights(weights)
        return model.eval()


def find_checkpoint_files(path: str | os.PathLike[str], **hub: Any) -> Path:
    """Return the directory that holds the files of a checkpoint, downloading them if they are on the Hub.

    Args:
        path: Checkpoint directory, or name of a repository on the Hugging Face Hub.
        hub: Options of ``huggingface_hub.snapshot_download``.

    Raises:
        InputError: If there is no checkpoint, or the Hub cannot be read.
    """
    if Path(path).is_dir() or not isinstance(path, str):
        if any(not (Path(path) / name).is_file() for name in CHECKPOINT_FILES):
            checkpoints = find_checkpoints(Path(path))
            advice = f"it is a run; load its checkpoint {checkpoints[-1]}" if checkpoints else _MISSING_FILES
            raise InputError(f"{path} is not a checkpoint; {advice}")
        return Path(path)
    with translate_hub_errors(path, "read from this machine or"):
        return Path(snapshot_download(path, allow_patterns=list(CHECKPOINT_FILES), **hub))


def read_checkpoint_config(path: Path) -> CheckpointConfig:
    """Read the ``config.json`` of a checkpoint directory.

    Raises:
        InputError: If its format version is unknown, it is malformed, or it is of another project.
    """
    try:
        content = read_json_file(path / "config.json")
        version = None if is_foreign(content) else read_field(own_content(content), "format_version", int)
        if version in (1, CHECKPOINT_FORMAT):
            config = CheckpointConfig.from_json(own_content(content))
            check_settings(content, config)
            return config
    except (InputError, ValueError, KeyError, TypeError) as error:
        raise _damage_error(path, error) from error
    if version is None:
        raise InputError(
            f"{path} is a checkpoint of transformers.DecisionTransformerModel whose config.json has no part {OWN_KEY}, "
            "which says what the model observes; only checkpoints that this project wrote have one"
        )
    raise InputError(
        f"{path} has checkpoint format {version}, but this version of the code reads 1 to {CHECKPOINT_FORMAT}; "
        "train again, or use the version of the code that wrote it"
    )


def _name(dtype: torch.dtype) -> str:
    """Return the name of a dtype, such as ``"bfloat16"``."""
    return str(dtype).removeprefix("torch.")


def _damage_error(path: Path, error: Exception) -> InputError:
    return InputError(
        f"the checkpoint {path} is damaged or from another project ({summarize_error(error)}); "
        "copy it again or use another checkpoint"
    )


def latest_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` if it is a checkpoint, or the newest checkpoint of the run in ``path``.

    Raises:
        InputError: If there is no checkpoint.
    """
    path = Path(path)
    if (path / "model.safetensors").is_file():
        return path
    checkpoints = [checkpoint for checkpoint in find_checkpoints(path) if (checkpoint / "model.safetensors").is_file()]
    if not checkpoints:
        if find_checkpoints(path / "training"):
            raise InputError(f"{path} is a run of a sweep or benchmark; give its training run, {path / 'training'}")
        raise InputError(
            f"no run with a checkpoint at {path} ({path / 'checkpoints'} holds no update-…); "
            "give a run directory of scripts/train.py, or train a model first"
        )
    return checkpoints[-1]


def find_checkpoints(run_directory: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first. Directories of other names, such as copies, are none."""
    return sorted((run_directory / "checkpoints").glob(f"update-{8 * '[0-9]'}"))


def checkpoint_updates(checkpoint: Path) -> int | None:
    """Return the number of updates made before a checkpoint of a run, or None for a checkpoint of another name."""
    match = re.fullmatch(r"update-(\d{8})", checkpoint.name, re.ASCII)
    return int(match[1]) if match else None
