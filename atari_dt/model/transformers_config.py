"""The ``config.json`` of a checkpoint that transformers loads too: its settings, and this project's under one key."""

from __future__ import annotations

from typing import Any

from atari_dt.method_config import HFDecisionTransformerConfig
from atari_dt.model.checkpoint_config import CheckpointConfig
from replay_data.json_fields import read_object

OWN_KEY = "atari_dt"
"""Key of the content that `CheckpointConfig.to_json` returns. transformers keeps keys that it does not know."""

MODEL_TYPE = "decision_transformer"
"""Value of ``model_type`` in a ``config.json`` of ``transformers.DecisionTransformerModel``."""


def transformers_settings(config: CheckpointConfig) -> dict[str, Any]:
    """Return the arguments of ``transformers.DecisionTransformerConfig`` for a checkpoint.

    Settings that are not named have its defaults. The caches of keys and values and the tokens of a text, which the
    network does not use, are turned off.
    """
    assert isinstance(config.model, HFDecisionTransformerConfig)
    assert config.max_timestep is not None
    model = config.model
    return {
        "state_dim": config.observation.state_shape[0],
        "act_dim": config.num_actions,
        "max_ep_len": config.max_timestep + 1,
        "hidden_size": model.embed_dim,
        "n_layer": model.num_layers,
        "n_head": model.num_heads,
        "activation_function": model.activation,
        "action_tanh": False,
        "resid_pdrop": model.dropout,
        "embd_pdrop": model.dropout,
        "attn_pdrop": model.dropout,
        "use_cache": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def to_transformers_json(config: CheckpointConfig) -> dict[str, Any]:
    """Return the content of a ``config.json`` that transformers and `read_own_content` read."""
    header = {"architectures": ["DecisionTransformerModel"], "model_type": MODEL_TYPE}
    return {**header, **transformers_settings(config), OWN_KEY: config.to_json()}


def is_foreign(content: Any) -> bool:
    """Return whether a ``config.json`` is one of transformers without this project's content."""
    return isinstance(content, dict) and content.get("model_type") == MODEL_TYPE and OWN_KEY not in content


def own_content(content: Any) -> Any:
    """Return this project's content of a ``config.json``, which is all of it unless transformers loads it too."""
    return content[OWN_KEY] if OWN_KEY in read_object(content) else content


def check_settings(content: Any, config: CheckpointConfig) -> None:
    """Check that transformers builds the same network from a ``config.json`` as this project does.

    Args:
        content: Content of the file.
        config: This project's content of it.

    Raises:
        ValueError: If a setting contradicts it.
    """
    if not isinstance(config.model, HFDecisionTransformerConfig):
        return
    for name, value in transformers_settings(config).items():
        if content.get(name, value) != value:
            raise ValueError(f"its {name} is {str(content[name])[:40]}, but its part {OWN_KEY} says {value}")
