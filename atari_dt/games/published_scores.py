"""Published scores: results of Chen et al. 2021 and of d3rlpy, and random and human scores of 57 games."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PaperScores:
    """Results and target return of Chen et al. 2021 for one game.

    Attributes:
        random: Score of a random policy. A gamer-normalized score is 100 · (score - random) / (gamer - random).
        gamer: Score of a human player.
        decision_transformer: Mean and standard deviation of the scores of 3 seeds.
        behavior_cloning: Mean and standard deviation of the scores of 3 seeds.
        normalized: Gamer-normalized mean and standard deviation over 3 seeds for each method of table 1, computed from
            unrounded scores; the standard deviation is None where the paper gives none.
        target_return: Target return, in clipped rewards.
        return_multiple: Approximate ratio of the target return to the largest return in the paper's data.
    """

    random: float
    gamer: float
    decision_transformer: tuple[float, float]
    behavior_cloning: tuple[float, float]
    normalized: Mapping[str, tuple[float, float | None]]
    target_return: float
    return_multiple: float


def _table_1(
    dt: tuple[float, float], cql: float, qr_dqn: float, rem: float, bc: tuple[float, float]
) -> dict[str, tuple[float, float | None]]:
    """Return one game's row of table 1: mean and standard deviation of each method."""
    return {"DT": dt, "CQL": (cql, None), "QR-DQN": (qr_dqn, None), "REM": (rem, None), "BC": bc}


PAPER_SCORES = {
    "breakout": PaperScores(
        2, 30, (76.9, 27.3), (40.9, 17.3), _table_1((267.5, 97.5), 211.1, 17.1, 8.9, (138.9, 61.7)), 90, 1
    ),
    "qbert": PaperScores(
        164, 13455, (2215.8, 1523.7), (2464.1, 1948.2), _table_1((15.4, 11.4), 104.2, 0.0, 0.0, (17.3, 14.7)), 2500, 5
    ),
    "pong": PaperScores(
        -21, 15, (17.1, 2.9), (9.7, 7.2), _table_1((106.1, 8.1), 111.9, 18.0, 0.5, (85.2, 20.0)), 20, 1
    ),
    "seaquest": PaperScores(
        68, 42055, (1129.3, 189.0), (968.6, 133.8), _table_1((2.5, 0.4), 1.7, 0.4, 0.7, (2.1, 0.3)), 1450, 5
    ),
}
"""Results of Chen et al. 2021, table 1 and appendix, by ROM id."""


@dataclass(frozen=True)
class Publication:
    """Where published scores come from, and how they were obtained.

    Attributes:
        name: Short name for tables.
        source: Table, or repository with commit and files, that has the numbers.
        data: Training data.
        details: Sentences on the training and the evaluation, as far as they are known.
    """

    name: str
    source: str
    data: str
    details: str


@dataclass(frozen=True)
class PublishedScore:
    """The published score of one method in one game.

    Attributes:
        publication: Where the score was published.
        method: Label of the method, as in `atari_dt.method_config`.
        game: ROM id of the game.
        final: Mean score of the seeds after the last update, in points.
        std: Standard deviation of the seeds' final scores, in points; None where it is not published.
        percent: Gamer-normalized score that ``final`` was converted from; None where points were published.
        seeds: Number of training seeds; None where it is not known.
        updates: Number of updates of ``final``; None where it is not known.
        best: Largest mean score of the seeds among all evaluations, in points; None where it is not published.
        best_updates: Number of updates of ``best``.
    """

    publication: Publication
    method: str
    game: str
    final: float
    std: float | None = None
    percent: float | None = None
    seeds: int | None = None
    updates: int | None = None
    best: float | None = None
    best_updates: int | None = None


DECISION_TRANSFORMER_PAPER = Publication(
    name="Chen et al. 2021",
    source="arXiv:2106.01345, table 1 (gamer-normalized) and appendix (points of DT, CQL and BC)",
    data="500,000 steps (1%) of the DQN-replay dataset",
    details=(
        "Numbers of updates are not given, and standard deviations only of DT and BC, which were trained for 5 epochs "
        "and evaluated for 10 episodes without sticky actions. Scores are taken to be final ones."
    ),
)

D3RLPY_BENCHMARKS = Publication(
    name="d3rlpy-benchmarks",
    source=(
        "github.com/takuseno/d3rlpy-benchmarks at commit 1771c9b, atari/ALGORITHM_GAME_SEED_DATE/environment.csv of "
        "DiscreteCQL, QRDQN and DiscreteDT"
    ),
    data="d4rl-atari 1%: 500,000 steps of run 1 of the DQN-replay dataset",
    details=(
        "The scripts are reproductions/offline/ of d3rlpy 1.1.1, and of 2.3.0 for DT. Each seed draws its own "
        "episodes, 10,000 steps of each of 50 buffers. CQL and QR-DQN were trained on 32 transitions per update and "
        "evaluated every 125,000 updates, for 10 episodes with sticky actions and epsilon 0.001. DT was trained on 128 "
        "contexts of 30 steps per update and evaluated after each of 5 epochs, for 10 episodes without sticky actions "
        "under the paper's target returns."
    ),
)

_CQL_POINTS = {"breakout": 61.1, "qbert": 14012.0, "pong": 19.3, "seaquest": 779.4}
"""Scores of CQL in the appendix of Chen et al. 2021."""


def _decision_transformer_paper(game: str, paper: PaperScores) -> list[PublishedScore]:
    """Return the scores of all methods of table 1 in points, converted where the paper has only percentages."""

    def score(
        method: str, final: float, std: float | None = None, percent: float | None = None, seeds: int | None = None
    ) -> PublishedScore:
        return PublishedScore(DECISION_TRANSFORMER_PAPER, method, game, final, std, percent, seeds)

    def convert(method: str) -> PublishedScore:
        percent, _ = paper.normalized[method]
        return score(method, paper.random + percent / 100 * (paper.gamer - paper.random), percent=percent)

    return [
        score("DT", *paper.decision_transformer, seeds=3),
        score("BC", *paper.behavior_cloning, seeds=3),
        score("CQL", _CQL_POINTS[game]),
        convert("QR-DQN"),
        convert("REM"),
    ]


def _d3rlpy(
    method: str, updates: int, scores: Mapping[str, tuple[float, float, float, int]]
) -> Iterator[PublishedScore]:
    """Yield the scores of a method by game, from the final score, its deviation, the best score and its updates."""
    for game, (final, std, best, best_updates) in scores.items():
        yield PublishedScore(D3RLPY_BENCHMARKS, method, game, final, std, None, 10, updates, best, best_updates)


PUBLISHED_SCORES = (
    *(score for game, paper in PAPER_SCORES.items() for score in _decision_transformer_paper(game, paper)),
    *_d3rlpy(
        "DT",
        19_525,
        {
            "breakout": (85.99, 16.84, 96.45, 7_810),
            "qbert": (9619.0, 2098.56, 9619.0, 19_525),
            "seaquest": (1096.0, 141.22, 1164.2, 7_810),
        },
    ),
    *_d3rlpy(
        "CQL",
        12_500_000,
        {
            "breakout": (21.98, 2.13, 66.59, 2_500_000),
            "qbert": (8166.25, 705.4, 13980.5, 1_125_000),
            "pong": (3.91, 7.29, 10.59, 2_250_000),
            "seaquest": (576.9, 125.59, 601.8, 11_500_000),
        },
    ),
    *_d3rlpy(
        "QR-DQN",
        12_500_000,
        {
            "breakout": (1.17, 0.42, 7.27, 1_125_000),
            "qbert": (274.5, 146.58, 410.5, 11_875_000),
            "pong": (-20.54, 0.27, -18.1, 1_625_000),
            "seaquest": (108.2, 44.07, 437.6, 250_000),
        },
    ),
)
"""Scores in points, with their sources.

Those of d3rlpy-benchmarks were computed from its files of all seeds (tests/data/make_d3rlpy_benchmarks.py); its own
``atari_table.csv`` has the same final scores. As best scores, that table has the mean of each seed's largest score,
which is larger than the largest mean of all seeds. It has no scores of REM and BC, and none of DT in Pong.
"""

HUMAN_SCORES = {
    "alien": (227.8, 7127.7),
    "amidar": (5.8, 1719.5),
    "assault": (222.4, 742.0),
    "asterix": (210.0, 8503.3),
    "asteroids": (719.1, 47388.7),
    "atlantis": (12850.0, 29028.1),
    "bank_heist": (14.2, 753.1),
    "battle_zone": (2360.0, 37187.5),
    "beam_rider": (363.9, 16926.5),
    "berzerk": (123.7, 2630.4),
    "bowling": (23.1, 160.7),
    "boxing": (0.1, 12.1),
    "breakout": (1.7, 30.5),
    "centipede": (2090.9, 12017.0),
    "chopper_command": (811.0, 7387.8),
    "crazy_climber": (10780.5, 35829.4),
    "defender": (2874.5, 18688.9),
    "demon_attack": (152.1, 1971.0),
    "double_dunk": (-18.6, -16.4),
    "enduro": (0.0, 860.5),
    "fishing_derby": (-91.7, -38.7),
    "freeway": (0.0, 29.6),
    "frostbite": (65.2, 4334.7),
    "gopher": (257.6, 2412.5),
    "gravitar": (173.0, 3351.4),
    "hero": (1027.0, 30826.4),
    "ice_hockey": (-11.2, 0.9),
    "jamesbond": (29.0, 302.8),
    "kangaroo": (52.0, 3035.0),
    "krull": (1598.0, 2665.5),
    "kung_fu_master": (258.5, 22736.3),
    "montezuma_revenge": (0.0, 4753.3),
    "ms_pacman": (307.3, 6951.6),
    "name_this_game": (2292.3, 8049.0),
    "phoenix": (761.4, 7242.6),
    "pitfall": (-229.4, 6463.7),
    "pong": (-20.7, 14.6),
    "private_eye": (24.9, 69571.3),
    "qbert": (163.9, 13455.0),
    "riverraid": (1338.5, 17118.0),
    "road_runner": (11.5, 7845.0),
    "robotank": (2.2, 11.9),
    "seaquest": (68.4, 42054.7),
    "skiing": (-17098.1, -4336.9),
    "solaris": (1236.3, 12326.7),
    "space_invaders": (148.0, 1668.7),
    "star_gunner": (664.0, 10250.0),
    "surround": (-10.0, 6.5),
    "tennis": (-23.8, -8.3),
    "time_pilot": (3568.0, 5229.2),
    "tutankham": (11.4, 167.6),
    "up_n_down": (533.4, 11693.2),
    "venture": (0.0, 1187.5),
    "video_pinball": (16256.9, 17667.9),
    "wizard_of_wor": (563.5, 4756.5),
    "yars_revenge": (3092.9, 54576.9),
    "zaxxon": (32.5, 9173.3),
}
"""Scores of a random policy and of a human by ROM id, for the 57 games of DQN Zoo (Quan and Ostrovski 2020)."""
