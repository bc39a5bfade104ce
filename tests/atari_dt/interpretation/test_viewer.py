"""The viewer page: its packed data, and its behavior in a browser."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atari_dt.config import ModelConfig
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.interpretation.episode_trace import TracedEvaluation
from atari_dt.interpretation.saliency import gradient_times_input, sum_by_cell, sum_by_frame
from atari_dt.interpretation.tracing import trace_episodes
from atari_dt.interpretation.viewer import SaliencyMaps, viewer_page
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.policies.protocol import EvaluationProtocol
from tests.atari_dt.interpretation.pages import canvas, open_page, pixels, slide, wait_until
from tests.atari_dt.interpretation.q_runs import q_run
from tests.atari_dt.models import DATASET

Viewer = tuple[TracedEvaluation, list[SaliencyMaps], Path]  # with the file of the page

K = 4
TOKEN_TYPES = ("return", "state", "action")
PLANTED_FRAME = 4  # index of the frame with planted saliency: the newest frame, 2 steps back


def run_directory(path: Path, conditioning: Any = "return") -> Path:
    """Save a model whose heads attend differently, in a run whose name is HTML markup."""
    torch.manual_seed(8)
    config = ModelConfig(K, 2, 2, 16, conditioning=conditioning)
    model = DecisionTransformer(config, num_actions=4, max_timestep=8)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for parameter in model.state_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    if conditioning == "return":
        torch.nn.init.normal_(model.return_embedding.weight, std=0.03)  # the tanh of 40 does not saturate
    model.dataset = DATASET
    model.save_pretrained(path / "<script>alert(1)<!--" / "checkpoints" / "update-00000001")
    return path / "<script>alert(1)<!--"


def compute_saliency(traced: TracedEvaluation) -> list[SaliencyMaps]:
    batches = [episode.batch(np.arange(len(episode)), torch.device("cpu")) for episode in traced.episodes]
    maps = [sum_by_cell(sum_by_frame(gradient_times_input(traced.model, batch)), 14).numpy() for batch in batches]
    planted = [np.zeros_like(each) for each in maps]
    for each in planted:
        each[:, PLANTED_FRAME, 2, 3], each[:, PLANTED_FRAME, 9, 10] = 1, -1
    return [{"gradient × input": each, "planted": plant} for each, plant in zip(maps, planted, strict=True)]


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Viewer:
    path = tmp_path_factory.mktemp("viewer")
    traced = trace_episodes(run_directory(path), PlayConfig(episodes=2, max_steps=60), show_progress=False)
    maps = compute_saliency(traced)
    (path / "viewer.html").write_text(viewer_page(traced, maps, "the logit"), encoding="utf-8")
    return traced, maps, path / "viewer.html"


def unpack(text: str, dtype: str, *shape: int) -> Any:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype).reshape(shape)


def test_page_contains_the_traces(viewer: Viewer) -> None:
    traced, saliency, path = viewer
    page = path.read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)|https?://|@import|url\(", page)
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    assert data["tokenTypes"] == list(TOKEN_TYPES)
    assert data["targetReturns"] == traced.target_returns.tolist()
    assert data["targetReturnLabels"][traced.played_index] == "40 (1×)"
    for packed, episode, maps in zip(data["episodes"], traced.episodes, saliency, strict=True):
        steps = len(episode)
        assert packed["numSteps"] == steps == 60
        assert packed["truncated"]
        assert packed["score"] == episode.scores[-1]
        for name, frames in (("screens", episode.screens), ("frames", episode.states[:, 3])):
            differences = unpack(packed[name], "u1", steps, *frames.shape[1:])
            assert np.array_equal(np.bitwise_xor.accumulate(differences, axis=0), frames)
        weights = (unpack(packed["attention"], "u1", steps, 2, 2, K, 3) / 255.0) ** 2
        assert np.abs(weights - episode.attention).max() < 0.004
        assert np.abs((unpack(packed["rollout"], "u1", steps, K, 3) / 255.0) ** 2 - episode.rollout).max() < 0.004
        probabilities = unpack(packed["preferences"], "<u2", steps, len(traced.target_returns), 4) / 65535
        assert np.abs(probabilities - episode.preferences).max() < 1e-5
        assert np.array_equal(unpack(packed["actions"], "u1", steps), episode.actions)
        for name, values in maps.items():
            levels = unpack(packed["saliency"][name]["values"], "i1", steps, K + 3, 14, 14) / 15.0
            most = np.abs(values).max((1, 2, 3), keepdims=True)
            assert (np.abs(np.sign(levels) * levels**2 * most - values) <= 0.07 * most).all()
        # The screen is in color: bricks, walls, ball and paddle differ.
        assert len(np.unique(episode.palette[episode.screens[30]].reshape(-1, 3), axis=0)) > 5


def test_scores_and_returns_match_the_evaluation(viewer: Viewer) -> None:
    traced, _, _ = viewer
    for episode, score, returns in zip(
        traced.episodes, traced.result.scores, (e.returns_to_go for e in traced.result.episodes), strict=True
    ):
        assert episode.scores[-1] == score
        newest = episode.returns_to_go[np.arange(len(episode)), episode.num_steps - 1]
        assert np.array_equal(newest, returns)
        paid = np.diff(episode.scores).clip(-1, 1)
        assert np.array_equal(newest, 40 - np.concatenate([[0], np.cumsum(paid[:-1])]).astype(np.float32))


def test_viewer_controls(browser: Any, viewer: Viewer, messages: list[str]) -> None:
    traced, _, path = viewer
    episode, other = traced.episodes
    page = open_page(browser, path, messages)
    summary = page.inner_text("#summary")
    for part in (
        str(traced.checkpoint),
        f"score {episode.scores[-1]:g}",
        "target return 40 (1×)",
        "60 steps, truncated",
    ):
        assert part in summary
    assert page.title() == page.inner_text("h1") == "Breakout: attention and saliency"

    # The timeline selects the step: its screen, and the frames of its context.
    slide(page, "#scrub", 41)
    assert page.inner_text("#position") == "step 41 of 59"
    assert np.array_equal(pixels(page, "#screen"), episode.palette[episode.screens[41]])
    page.select_option("#saliency", "off")
    for cell in range(K + 3):
        frame = episode.states[41 - (K + 2 - cell), 3]
        plain = pixels(page, f".cell:nth-child({cell + 1}) canvas")
        assert np.array_equal(plain, np.repeat(frame[..., None], 3, axis=-1))

    # Saliency is blended into its frame; the list and the keyboard select the method.
    page.select_option("#saliency", "gradient × input")
    assert not np.array_equal(pixels(page, f".cell:nth-child({K + 3}) canvas"), plain)
    page.locator("body").press("s")
    assert page.input_value("#saliency") == "planted"
    for cell in range(K + 3):
        frame = episode.states[41 - (K + 2 - cell), 3].astype(int)[..., None]
        change = pixels(page, f".cell:nth-child({cell + 1}) canvas") - frame
        if cell != PLANTED_FRAME:
            assert not change.any()
            continue
        assert change[15, 21].argmax() == 0 < change[15, 21].max()  # red in the middle of the positive cell
        assert change[57, 63].argmin() == 0 < change[57, 63].max()  # not red in the middle of the negative cell
        assert not change[30:42].any()
    page.hover(f".cell:nth-child({PLANTED_FRAME + 1})")
    assert "saliency 100.0%" in page.inner_text("#readout")
    assert f"action taken: {DATASET.action_meanings[episode.actions[39]]}" in page.inner_text("#readout")
    page.hover(".cell:nth-child(2)")
    readout = page.inner_text("#readout")
    assert readout.startswith("Step 36, 5 steps back: lead-in frame of the oldest state")
    assert "saliency 0.0%" in readout

    # Layer and head select the weights of the bars and the readout.
    readouts = set()
    for layer, head, weights in (
        ("mean", "mean", episode.attention[41].mean((0, 1))),
        ("rollout", "mean", episode.rollout[41]),
        ("2", "mean", episode.attention[41, 1].mean(0)),
        ("2", "1", episode.attention[41, 1, 0]),
        ("1", "2", episode.attention[41, 0, 1]),
    ):
        page.select_option("#layer", label=layer)
        if head != "mean":
            page.select_option("#head", label=head)
        page.hover(".cell:nth-child(5)")
        readout = page.inner_text("#readout")
        readouts.add(readout)
        assert readout.startswith("Step 39, 2 steps back")
        for token_type, weight in zip(TOKEN_TYPES, weights[1], strict=True):
            match = re.search(rf"\b{token_type} ([\d.]+)%", readout)
            assert match is not None
            assert float(match[1]) / 100 == pytest.approx(weight, abs=0.005)
        bars = ".cell:nth-child(n + 4) .bars span"
        heights = page.eval_on_selector_all(bars, "all => all.map(bar => parseFloat(bar.style.height))")
        assert np.array(heights).reshape(K, 3) / 44 == pytest.approx(weights / weights.max(), abs=0.03)
    assert len(readouts) == 5
    # The maps of all heads share one scale, oldest step first; a click selects a head, and space still plays.
    head_weights = episode.attention[41]
    maps = [canvas(page, f"#heads button >> nth={i} >> canvas")[..., 3] for i in range(4)]
    expected = np.sqrt(head_weights.transpose(0, 1, 3, 2) / head_weights.max())
    assert np.stack(maps).reshape(2, 2, 3, K) / 255 == pytest.approx(expected, abs=0.03)
    page.click("#heads button >> nth=3")
    assert (page.input_value("#layer"), page.input_value("#head")) == ("1", "1")
    page.keyboard.press(" ")
    assert page.evaluate("view.playing")
    page.keyboard.press(" ")
    assert (page.input_value("#layer"), page.input_value("#head")) == ("1", "1")
    slide(page, "#scrub", 41)

    # The target-return slider shows the action probabilities under other target returns.
    probabilities = []
    for target in (traced.played_index, 0, 8):
        slide(page, "#target-return", target)
        numbers = page.eval_on_selector_all(
            "#actions .preference", "all => all.map(each => parseFloat(each.textContent) / 100)"
        )
        assert numbers == pytest.approx(episode.preferences[41, target], abs=0.0006)
        widths = page.eval_on_selector_all("#actions b", "all => all.map(bar => parseFloat(bar.style.width) / 100)")
        assert widths == pytest.approx(numbers)
        probabilities.append(numbers)
    assert page.inner_text("#target-return-label") == "target return 80 (2×), hypothetical"
    assert probabilities[1] != probabilities[0] != probabilities[2]
    page.click("#reset-target")
    assert page.inner_text("#target-return-label") == "target return 40 (1×), as played"

    # The keyboard selects the step, and plays.
    body = page.locator("body")
    for key, step in (("ArrowRight", 42), ("Shift+ArrowLeft", 32), ("Home", 0), ("ArrowLeft", 0), ("End", 59)):
        body.press(key)
        assert page.inner_text("#position") == f"step {step} of 59"
    body.press("Home")
    body.press(" ")
    assert page.inner_text("#play") == "❚❚ pause"
    wait_until(page, "view.step >= 3")
    body.press(" ")
    stopped = page.evaluate("view.step")
    page.wait_for_timeout(300)
    assert page.evaluate("view.step") == stopped < 59
    page.click("#play")
    wait_until(page, f"view.step > {stopped}")
    page.locator("#target-return").press("ArrowRight")  # moves the focused slider, not the step
    assert page.evaluate("[view.targetIndex, view.playing]") == [traced.played_index + 1, True]

    # Playback runs at 15 steps a second, however often it was started, and does not jump after the browser stalled.
    slide(page, "#scrub", 0)
    start = page.evaluate(
        "for (const playing of [true, false, true, false, true]) setPlaying(playing); performance.now()"
    )
    wait_until(page, "view.step >= 8")
    page.evaluate("{ const until = performance.now() + 2000; while (performance.now() < until); }")
    wait_until(page, "view.step >= 12")
    step, now = page.evaluate("[view.step, performance.now()]")
    assert step <= 15 * ((now - start) / 1000 - 2 + 0.5) + 1

    # The second episode can be selected; its first steps have shorter contexts.
    page.select_option("#episode", index=1)
    wait_until(page, f"episode.score === {other.scores[-1]:g} && view.step === 0")
    slide(page, "#scrub", 1)
    assert np.array_equal(pixels(page, "#screen"), other.palette[other.screens[1]])
    assert page.locator(".cell.empty").count() == K + 3 - 2
    assert messages == []


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_page_fits_laptop_and_phone(browser: Any, viewer: Viewer, messages: list[str], width: int, height: int) -> None:
    page = open_page(browser, viewer[2], messages, width, height)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    play = page.locator("#play").bounding_box()
    assert play is not None
    assert play["y"] + play["height"] <= height  # in view without scrolling
    assert messages == []


def test_page_of_a_q_network_shows_q_and_no_attention(
    browser: Any, tmp_path: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = trace_episodes(q_run(tmp_path, monkeypatch), PlayConfig(episodes=1, max_steps=8), show_progress=False)
    (episode,) = traced.episodes
    path = tmp_path / "viewer.html"
    maps: list[SaliencyMaps] = [{"planted": np.ones((8, 4, 14, 14), dtype=np.float32)}]
    path.write_text(viewer_page(traced, maps, "the advantage"), encoding="utf-8")
    page = open_page(browser, path, messages)
    assert page.inner_text("h1") == "Breakout: saliency"
    assert page.locator(".of-attention:visible").count() == 0
    assert "effect of a pixel on the advantage of the action taken" in page.inner_text("#help")
    slide(page, "#scrub", 5)
    q_values = episode.preferences[5, 0]
    numbers = page.eval_on_selector_all("#actions .preference", "all => all.map(each => parseFloat(each.textContent))")
    assert numbers == pytest.approx(q_values, abs=0.0006 + np.ptp(episode.preferences) / 65535)
    widths = page.eval_on_selector_all("#actions b", "all => all.map(bar => parseFloat(bar.style.width) / 100)")
    spread = np.ptp(episode.preferences, axis=-1).max()
    assert widths == pytest.approx((q_values - q_values.min()) / spread, abs=0.002)
    assert f"Q {numbers[episode.actions[5]]:.3f}" in page.inner_text("#facts")
    page.hover(".cell:nth-child(2)")
    taken = DATASET.action_meanings[episode.actions[3]]
    assert page.inner_text("#readout") == f"Step 3, 2 steps back: saliency 25.0% · action taken: {taken}"
    assert messages == []


def test_behavior_cloning_has_no_target_return_slider(browser: Any, tmp_path: Path, messages: list[str]) -> None:
    protocol = EvaluationProtocol(sticky_actions=0.0)
    traced = trace_episodes(
        run_directory(tmp_path, "none"), PlayConfig(protocol, episodes=1, max_steps=10), show_progress=False
    )
    path = tmp_path / "viewer.html"
    path.write_text(viewer_page(traced, compute_saliency(traced), "the logit"), encoding="utf-8")
    page = open_page(browser, path, messages)
    assert page.locator("#target-return").is_hidden()
    assert page.locator("#episode").is_hidden()
    assert "target return none (BC)" in page.inner_text("#summary")
    page.locator("body").press("End")
    page.hover(".cell:nth-child(4)")
    assert re.fullmatch(r"Step 6, 3 steps back: state [\d.]+% · action [\d.]+%.*", page.inner_text("#readout"))
    assert messages == []
