"""Episodes assembled from parallel steps, against a recount step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from atari_dt.collection.rollout import CompressedEpisode, EpisodeAssembler, Steps
from tests.replay_data.recordings import same


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 2**32))
def test_steps_of_parallel_environments_become_episodes(num_envs: int, chunks: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    assembler = EpisodeAssembler(num_envs)
    open_steps: list[list[Any]] = [[] for _ in range(num_envs)]
    for num_steps in chunks:
        shape = (num_steps, num_envs)
        frames = rng.integers(256, size=(*shape, 84, 84), dtype=np.uint8)
        actions = rng.integers(18, size=shape, dtype=np.uint8)
        rewards = rng.integers(-9, 10, size=shape).astype(np.float32)
        terminated, truncated = rng.random(shape) < 0.2, rng.random(shape) < 0.1
        ram = rng.integers(256, size=(*shape, 128), dtype=np.uint8) if seed % 2 else None
        finished = assembler.add(Steps(frames, actions, rewards, terminated, truncated, ram))
        for t in range(num_steps):
            for env_index in range(num_envs):
                step = frames[t, env_index], actions[t, env_index], rewards[t, env_index]
                open_steps[env_index].append(step if ram is None else (*step, ram[t, env_index]))
                if terminated[t, env_index] or truncated[t, env_index]:
                    compressed, position = finished.pop(0)
                    episode = compressed.unpack()
                    packed = CompressedEpisode.pack(episode).unpack()
                    assert same(packed, episode, raw_rewards=True)
                    assert np.array_equal(packed.ram, episode.ram)  # type: ignore[arg-type]
                    assert (episode.ram is None) == (ram is None)
                    expected = [np.array(column) for column in zip(*open_steps[env_index], strict=True)]
                    assert position == t * num_envs + env_index + 1
                    assert episode.raw_rewards is not None
                    assert np.array_equal(episode.frames, expected[0])
                    assert np.array_equal(episode.actions, expected[1])
                    assert np.array_equal(episode.raw_rewards, expected[2])
                    assert ram is None or np.array_equal(episode.ram, expected[3])  # type: ignore[arg-type]
                    assert np.array_equal(episode.rewards, expected[2].clip(-1, 1))
                    assert episode.terminated == terminated[t, env_index]
                    open_steps[env_index] = []
        assert not finished
