"""Hugging Face's Decision Transformer, trained and played as this project's own."""

from __future__ import annotations

from atari_dt.games.ram_variables import require_observation
from atari_dt.method_config import HFDecisionTransformerConfig, MethodConfig
from atari_dt.methods.sequence import SequenceMethod
from atari_dt.model.checkpoint_config import CheckpointConfig
from atari_dt.model.hf_decision_transformer import HFDecisionTransformer
from atari_dt.model.input_scaling import InputScaling
from replay_data import TrajectoryStore


class HFDecisionTransformerMethod(SequenceMethod):
    """``transformers.DecisionTransformerModel`` on vectors: cross-entropy on its action logits."""

    network = HFDecisionTransformer

    def make_network(self, config: MethodConfig, store: TrajectoryStore) -> HFDecisionTransformer:
        """Return an untrained network that embeds every timestep of a store, and scales its inputs as the store's.

        Raises:
            InputError: If the store does not hold what the config observes, or transformers is not installed.
        """
        assert isinstance(config, HFDecisionTransformerConfig)
        observation = require_observation(config.observation, config.variables, store)
        statistics = store.metadata.ram_statistics
        assert statistics is not None
        scaling = InputScaling.from_arrays(*statistics.normalizer(observation), store.returns_to_go)
        max_timestep = int(store.timesteps.max())
        checkpoint_config = CheckpointConfig(
            config, store.num_actions, max_timestep, observation=observation, scaling=scaling
        )
        return HFDecisionTransformer(checkpoint_config)
