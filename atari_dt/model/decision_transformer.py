"""The Decision Transformer for Atari (Chen et al. 2021, section 3), and behavior cloning as the same model."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from atari_dt.config import Conditioning, ModelConfig
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.model_card import model_card, translate_hub_errors
from atari_dt.model.original_checkpoint import read_original_checkpoint
from atari_dt.model.pretrained import CHECKPOINT_FILES, CHECKPOINT_FORMAT
from atari_dt.model.state_encoder import StateEncoder
from atari_dt.model.transformer import Dropout, Transformer, init_weights
from replay_data import InputError
from replay_data.storage.atomic import atomic_directory


class DecisionTransformerOutput(NamedTuple):
    """What a forward pass gives.

    Attributes:
        loss: mean cross-entropy over the real steps, a scalar; None without targets.
        action_logits: float ``[B, K, num_actions]``, read at the state tokens.
        hidden_states: ``num_layers + 1`` tensors ``[B, T, D]``, if asked for.
        attentions: ``num_layers`` tensors ``[B, heads, T, T]``, if asked for.
    """

    loss: Tensor | None
    action_logits: Tensor
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None


class DecisionTransformer(nn.Module, ModelHubMixin):
    """Return-to-go, state and action tokens of K steps in; logits of each step's action out.

    Args:
        config: sizes and conditioning.
        num_actions: size of the game's action set.
        max_timestep: largest timestep with an embedding of its own; later ones share it.

    Attributes:
        dataset: what the weights were trained on; None for a fresh model.
        training_config: the fields of the `TrainingConfig` they were trained with, likewise.
        evaluations: how the model played, as `scripts/evaluate.py --out` writes it; empty if that is not known.
    """

    def __init__(self, config: ModelConfig, num_actions: int, max_timestep: int):
        super().__init__()
        self.config = config
        self.num_actions = num_actions
        self.max_timestep = max_timestep
        self.dataset: DatasetInfo | None = None
        self.training_config: dict[str, Any] | None = None
        self.evaluations: list[dict[str, Any]] = []
        dim = config.embed_dim
        self.state_encoder = StateEncoder(dim)
        self.action_embedding = nn.Embedding(num_actions, dim)
        if config.conditioning == "return":
            self.return_embedding = nn.Linear(1, dim)
        # One position more than a return-conditioned context has tokens, as in the original, for both kinds of model.
        self.position_embedding = nn.Parameter(torch.zeros(3 * config.context_length + 1, dim))
        self.timestep_embedding = nn.Parameter(torch.zeros(max_timestep + 1, dim))
        self.embedding_dropout = Dropout(config.dropout)
        self.transformer = Transformer(config.num_layers, dim, config.num_heads, config.dropout)
        self.head = nn.Linear(dim, num_actions, bias=False)
        init_weights(self.head)
        nn.init.normal_(self.action_embedding.weight, std=0.02)

    def forward(
        self,
        states: Tensor,
        actions: Tensor,
        returns_to_go: Tensor | None,
        timesteps: Tensor,
        attention_mask: Tensor | None = None,
        targets: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> DecisionTransformerOutput:
        """Predict the action of every step of B contexts.

        Contexts of fewer than K steps are left-aligned: causal attention keeps what follows them out of their
        predictions, so ``attention_mask`` only decides which steps count in the loss.

        Args:
            states: uint8 ``[B, K, 4, 84, 84]``, oldest frame first.
            actions: int64 ``[B, K]``, or ``[B, K - 1]`` when the last one is still to be chosen.
            returns_to_go: float ``[B, K]``, in the dataset's reward units; not read by behavior cloning.
            timesteps: int64 ``[B, K]``; ``config.timestep_encoding`` says which are embedded.
            attention_mask: bool ``[B, K]``, true where there is a step; all by default.
            targets: int64 ``[B, K]``, the actions to be predicted.
            output_attentions: whether to return the attention weights (slower).
            output_hidden_states: whether to return the tokens between the blocks.
        """
        return self.predict(
            self.encode_states(states),
            actions,
            returns_to_go,
            timesteps,
            attention_mask,
            targets,
            output_attentions,
            output_hidden_states,
        )

    def encode_states(self, states: Tensor) -> Tensor:
        """Encode states, uint8 ``[..., 4, 84, 84]``, as state tokens ``[..., D]`` for `predict`."""
        return self.state_encoder(states)

    def predict(
        self,
        state_tokens: Tensor,
        actions: Tensor,
        returns_to_go: Tensor | None,
        timesteps: Tensor,
        attention_mask: Tensor | None = None,
        targets: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> DecisionTransformerOutput:
        """Do what `forward` does, from states that `encode_states` has encoded, ``[B, K, D]``."""
        steps = state_tokens.shape[1]
        action_tokens = torch.tanh(self.action_embedding(actions))
        if actions.shape[1] == steps - 1:  # the last action's place is cut off again below
            action_tokens = F.pad(action_tokens, (0, 0, 0, 1))
        kinds = [state_tokens, action_tokens]
        if self.config.conditioning == "return":
            if returns_to_go is None:
                raise ValueError("a model conditioned on returns needs returns_to_go")
            kinds.insert(0, torch.tanh(self.return_embedding(returns_to_go.float().unsqueeze(-1))))
        dtype = torch.promote_types(state_tokens.dtype, action_tokens.dtype)
        tokens = rearrange([kind.to(dtype) for kind in kinds], "n b k d -> b (k n) d")
        tokens = tokens[:, : len(kinds) * steps - (steps - actions.shape[1])]

        if self.config.timestep_encoding == "window_start":
            timesteps = timesteps[:, :1]
        else:
            timesteps = timesteps.repeat_interleave(len(kinds), dim=1)[:, : tokens.shape[1]]
        timesteps = timesteps.clamp(max=self.max_timestep)
        positions = self.position_embedding[: tokens.shape[1]] + self.timestep_embedding[timesteps]
        x = self.embedding_dropout(tokens + positions)
        state_places = slice(len(kinds) - 2, None, len(kinds))
        if output_attentions or output_hidden_states:
            x, hidden_states, attentions = self.transformer(x, output_attentions=output_attentions)
            x = x[:, state_places]
        else:
            x, hidden_states, attentions = self.transformer(x, state_places)
        action_logits = self.head(x).float()

        loss = None
        if targets is not None:
            if attention_mask is not None:
                targets = targets.masked_fill(~attention_mask, -100)
            loss = F.cross_entropy(action_logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        return DecisionTransformerOutput(
            loss,
            action_logits,
            tuple(hidden_states) if output_hidden_states else None,
            tuple(attentions) if output_attentions else None,
        )

    def save_pretrained(self, save_directory: str | os.PathLike[str], **hub: Any) -> str | None:
        """Write a checkpoint, a directory of ``config.json``, ``model.safetensors`` and a card, whole or not at all.

        Args:
            save_directory: a directory that does not exist yet.
            hub: options of ``huggingface_hub.ModelHubMixin.save_pretrained``, such as ``repo_id="user/name"`` and
                ``push_to_hub=True``.

        Raises:
            InputError: if it exists.
            OSError: if it cannot be written.
        """
        save_directory = Path(save_directory)
        if os.path.lexists(save_directory):
            raise InputError(f"{save_directory} exists already; choose another directory, or delete it")
        repo_id = hub.pop("repo_id", save_directory.name)
        card = {"repo_id": repo_id, **(hub.pop("model_card_kwargs", None) or {})}
        with atomic_directory(save_directory) as directory:
            return super().save_pretrained(directory, repo_id=repo_id, model_card_kwargs=card, **hub)

    def push_to_hub(self, repo_id: str, **hub: Any) -> str:
        """Upload the checkpoint and its card to the Hugging Face Hub; return the commit's address.

        Args:
            repo_id: such as ``"user/name"``; made if it is not there.
            hub: options of ``huggingface_hub.ModelHubMixin.push_to_hub``, such as ``private=True``.

        Raises:
            InputError: if it cannot be uploaded.
        """
        card = {"repo_id": repo_id, **(hub.pop("model_card_kwargs", None) or {})}
        with translate_hub_errors(repo_id, "written to"):
            return str(super().push_to_hub(repo_id, model_card_kwargs=card, **hub))

    def generate_model_card(self, *args: Any, repo_id: str, **kwargs: Any) -> ModelCard:
        """Describe the model (see `model_card`)."""
        return model_card(self, repo_id)

    def _save_pretrained(self, save_directory: Path) -> None:
        self.write_files(save_directory)

    def write_files(self, directory: Path) -> None:
        """Write a checkpoint's config and weights to a directory that is there."""
        config = {
            "format_version": CHECKPOINT_FORMAT,
            "model": dataclasses.asdict(self.config),
            "num_actions": self.num_actions,
            "max_timestep": self.max_timestep,
            "dataset": dataclasses.asdict(self.dataset) if self.dataset else None,
            "training": self.training_config,
            "evaluations": self.evaluations,
        }
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (directory / "model.safetensors").write_bytes(save(weights))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **hub: Any) -> DecisionTransformer:
        """Read a checkpoint; the model is on the CPU and in evaluation mode.

        Args:
            pretrained_model_name_or_path: a directory, or the name of a repository on the Hugging Face Hub.
            hub: options of ``huggingface_hub.snapshot_download``, such as ``revision``.

        Raises:
            InputError: if there is no checkpoint, it is of another format version, or its files do not fit each other.
        """
        path = pretrained_model_name_or_path
        if Path(path).is_dir() or not isinstance(path, str):
            if any(not (Path(path) / name).is_file() for name in CHECKPOINT_FILES):
                raise InputError(f"{path} is not a checkpoint (it needs config.json and model.safetensors)")
            return cls._read(Path(path))
        with translate_hub_errors(path, "read from this machine or"):
            return cls._read(Path(snapshot_download(path, allow_patterns=list(CHECKPOINT_FILES), **hub)))

    @classmethod
    def _read(cls, path: Path) -> DecisionTransformer:
        try:
            config: dict[str, Any] = json.loads((path / "config.json").read_text())
            if (version := config["format_version"]) != CHECKPOINT_FORMAT:
                raise InputError(
                    f"{path} has checkpoint format {version}, this version of the code reads {CHECKPOINT_FORMAT}; "
                    "train again or use the code that made it"
                )
            model = cls(ModelConfig(**config["model"]), config["num_actions"], config["max_timestep"])
            if config["dataset"] is not None:
                config["dataset"]["action_meanings"] = tuple(config["dataset"]["action_meanings"])
                model.dataset = DatasetInfo(**config["dataset"])
            model.training_config = config.get("training")  # not recorded by the first versions of the code
            model.evaluations = config.get("evaluations", [])
            model.load_state_dict(load_file(path / "model.safetensors"))
        except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"the checkpoint {path} is damaged or not of this project ({reason})") from error
        return model.eval()

    @classmethod
    def from_original_checkpoint(
        cls, path: str | os.PathLike[str], num_heads: int = 8, conditioning: Conditioning = "return"
    ) -> DecisionTransformer:
        """Read a state dict of the original code (see `read_original_checkpoint`); it computes what that computes.

        The model is on the CPU and in evaluation mode; what it was trained on is not known.

        Raises:
            InputError: if the file is damaged, or holds something else, or its sizes do not fit each other.
        """
        config, num_actions, max_timestep, weights = read_original_checkpoint(path, num_heads, conditioning)
        model = cls(config, num_actions, max_timestep)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"the shapes in {path} do not fit each other ({reason})") from error
        return model.eval()
