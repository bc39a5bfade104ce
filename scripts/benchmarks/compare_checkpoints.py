"""Compare the actions of two checkpoints of a Decision Transformer, such as one and its copy in half precision."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

from pathlib import Path

import tyro

from atari_dt.command_line import run
from replay_data import InputError, TrajectoryStore


def main(
    run_directory: tyro.conf.Positional[Path],
    other: tyro.conf.Positional[Path],
    data: Path,
    num_contexts: int = 4000,
    batch_size: int = 100,
    seed: int = 0,
) -> None:
    """Print how often the most likely action of two models is the same at random steps of a store, and how far their
    action probabilities are apart.

    Args:
        run_directory: Run directory or checkpoint of a Decision Transformer, or of behavior cloning.
        other: Another one, of the same game and context length.
        data: Trajectory store.
        num_contexts: Number of contexts, drawn at random without replacement; all if the store has fewer.
        batch_size: Number of contexts in a batch.
        seed: Seed of the draw.
    """
    import numpy as np
    import torch

    from atari_dt.batches.contexts import ContextLoader
    from atari_dt.methods import load_model
    from atari_dt.model import DecisionTransformer, latest_checkpoint

    for name, value in (("num_contexts", num_contexts), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"`{name}` must be at least 1, not {value}")
    models = [load_model(latest_checkpoint(path)) for path in (run_directory, other)]
    first, second = models
    if not isinstance(first, DecisionTransformer) or not isinstance(second, DecisionTransformer):
        raise InputError(f"{run_directory} and {other} must be Decision Transformers or clone behavior")
    store = TrajectoryStore.open(data)
    same = [(model.config.context_length, model.num_actions, model.observation) for model in (first, second)]
    if same[0] != same[1] or first.require_dataset().game != store.game:
        raise InputError(f"{run_directory}, {other} and {data} differ in game, context length or observation")
    steps = np.random.default_rng(seed).permutation(len(store))[:num_contexts]
    batches = np.array_split(steps, -(-len(steps) // batch_size))
    loader = ContextLoader(store, first.config.context_length, torch.device("cpu"), first.observation)
    agreed, divergence, margin = 0, 0.0, []
    with torch.inference_mode():
        for batch in loader.batches(batches):
            newest = batch.attention_mask.sum(1) - 1
            log_probs, other_log_probs = (
                model.predict(
                    model.encode_states(batch.states),
                    batch.actions,
                    batch.returns_to_go,
                    batch.timesteps,
                    selected_steps=newest,
                )
                .action_logits[:, 0]
                .double()
                .log_softmax(-1)
                for model in (first, second)
            )
            same_action = log_probs.argmax(-1) == other_log_probs.argmax(-1)
            agreed += int(same_action.sum())
            divergence += float((log_probs.exp() * (log_probs - other_log_probs)).sum())
            best = log_probs.exp().topk(2).values
            margin += (best[:, 0] - best[:, 1])[~same_action].tolist()
    print(f"same most likely action: {agreed:,} of {len(steps):,} contexts ({agreed / len(steps):.2%})")
    print(f"mean KL divergence of the action probabilities: {divergence / len(steps):.2e} nats")
    if margin:
        print(f"where it differs, the two most likely actions were at most {max(margin):.4f} apart in probability")


if __name__ == "__main__":
    run(main)
