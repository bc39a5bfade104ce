"""The page, read back in Python, and used in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Error, Page, sync_playwright

from atari_dt.config import ModelConfig
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.protocol import EvaluationProtocol
from atari_dt.interpretation.episode_trace import TracedEvaluation, trace_episodes
from atari_dt.interpretation.saliency import by_cell, by_frame, gradient_times_input
from atari_dt.interpretation.viewer import Maps, viewer_page
from atari_dt.model.decision_transformer import DecisionTransformer
from tests.atari_dt.models import DATASET

K = 4
KINDS = ("return", "state", "action")
FRAME = 4  # of the context's, where saliency is planted: the newest of the step before the last but one


def run_directory(path: Path, conditioning: Any = "return") -> Path:
    """A run whose name is markup, of a model that looks at different things in different heads."""
    torch.manual_seed(8)
    config = ModelConfig(K, 2, 2, 16, conditioning=conditioning)
    model = DecisionTransformer(config, num_actions=4, max_timestep=8)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for parameter in model.state_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    if conditioning == "return":
        torch.nn.init.normal_(model.return_embedding.weight, std=0.03)  # returns of 40 are far from the tanh's ends
    model.dataset = DATASET
    model.save_pretrained(path / "<script>alert(1)<!--" / "checkpoints" / "update-00000001")
    return path / "<script>alert(1)<!--"


def saliency_of(recording: TracedEvaluation) -> list[Maps]:
    batches = [episode.batch(np.arange(len(episode)), torch.device("cpu")) for episode in recording.episodes]
    maps = [by_cell(by_frame(gradient_times_input(recording.model, batch)), 14).numpy() for batch in batches]
    planted = [np.zeros_like(each) for each in maps]
    for each in planted:
        each[:, FRAME, 2, 3], each[:, FRAME, 9, 10] = 1, -1
    return [{"gradient × input": each, "planted": other} for each, other in zip(maps, planted, strict=True)]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[TracedEvaluation, list[Maps], Path]:
    path = tmp_path_factory.mktemp("viewer")
    recording = trace_episodes(run_directory(path), PlayConfig(episodes=2, max_steps=60), show_progress=False)
    maps = saliency_of(recording)
    (path / "viewer.html").write_text(viewer_page(recording, maps), encoding="utf-8")
    return recording, maps, path / "viewer.html"


def unpack(text: str, dtype: str, *shape: int) -> Any:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype).reshape(shape)


def test_the_page_holds_what_was_recorded(shown: tuple[TracedEvaluation, list[Maps], Path]) -> None:
    recording, saliency, path = shown
    page = path.read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)|https?://|@import|url\(", page)
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    assert data["kinds"] == list(KINDS)
    assert data["targets"] == recording.targets.tolist()
    assert data["targetLabels"][recording.played] == "40 (1×)"
    for packed, episode, maps in zip(data["episodes"], recording.episodes, saliency, strict=True):
        steps = len(episode)
        assert packed["steps"] == steps == 60
        assert packed["cutOff"]
        assert packed["score"] == episode.scores[-1]
        for name, frames in (("screens", episode.screens), ("frames", episode.states[:, 3])):
            differences = unpack(packed[name], "u1", steps, *frames.shape[1:])
            assert np.array_equal(np.bitwise_xor.accumulate(differences, axis=0), frames)
        weights = (unpack(packed["attention"], "u1", steps, 2, 2, K, 3) / 255.0) ** 2
        assert np.abs(weights - episode.attention).max() < 0.004
        assert np.abs((unpack(packed["rollout"], "u1", steps, K, 3) / 255.0) ** 2 - episode.rollout).max() < 0.004
        probabilities = unpack(packed["probabilities"], "<u2", steps, len(recording.targets), 4) / 65535
        assert np.abs(probabilities - episode.probabilities).max() < 1e-5
        assert np.array_equal(unpack(packed["actions"], "u1", steps), episode.actions)
        for name, values in maps.items():
            levels = unpack(packed["saliency"][name]["values"], "i1", steps, K + 3, 14, 14) / 15.0
            most = np.abs(values).max((1, 2, 3), keepdims=True)
            assert (np.abs(np.sign(levels) * levels**2 * most - values) <= 0.07 * most).all()
        # What the console shows is what its screen shows, in color: bricks, walls, ball and paddle are not all grey.
        assert len(np.unique(episode.palette[episode.screens[30]].reshape(-1, 3), axis=0)) > 5


def test_scores_are_those_of_the_evaluation(shown: tuple[TracedEvaluation, list[Maps], Path]) -> None:
    recording, _, _ = shown
    for episode, score, returns in zip(
        recording.episodes, recording.result.scores, (e.returns_to_go for e in recording.result.episodes), strict=True
    ):
        assert episode.scores[-1] == score
        newest = episode.returns_to_go[np.arange(len(episode)), episode.num_steps - 1]
        assert np.array_equal(newest, returns)
        paid = np.diff(episode.scores).clip(-1, 1)
        assert np.array_equal(newest, 40 - np.concatenate([[0], np.cumsum(paid[:-1])]).astype(np.float32))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome", playwright.chromium.executable_path)
        path = next((found for name in names if (found := shutil.which(name))), None)
        if path is None:
            pytest.skip("no Chromium here; install it to test the viewer")
        options = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
        ]
        try:
            opened = playwright.chromium.launch(executable_path=path, args=options)
        except Error as error:
            pytest.skip(f"{path} does not start here: {error.message.splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture
def said() -> list[str]:
    """What pages say on the console and ask the network for; it must stay empty."""
    return []


def open_page(browser: Any, path: Path, said: list[str], width: int = 1280, height: int = 800) -> Page:
    page: Page = browser.new_page(viewport={"width": width, "height": height})
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url != path.as_uri() else None)
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    return page


def canvas(page: Page, selector: str) -> Any:
    """Red, green, blue and opacity of a canvas ``[height, width, 4]``."""
    address = page.eval_on_selector(selector, "canvas => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGBA"))


def pixels(page: Page, selector: str) -> Any:
    """Red, green and blue of a canvas ``[height, width, 3]``."""
    return canvas(page, selector)[..., :3]


def wait_until(page: Page, condition: str) -> None:
    """Playwright's own way of waiting evaluates text inside the page, which its security policy forbids."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not in 5 seconds: {condition}")


def slide(page: Page, selector: str, value: int) -> None:
    page.locator(selector).fill(str(value))


def test_a_person_can_look_through_the_episode(
    browser: Any, shown: tuple[TracedEvaluation, list[Maps], Path], said: list[str]
) -> None:
    recording, _, path = shown
    episode, other = recording.episodes
    page = open_page(browser, path, said)
    about = page.inner_text("#about")
    for part in (
        str(recording.checkpoint),
        f"score {episode.scores[-1]:g}",
        "target return 40 (1×)",
        "60 steps, cut off",
    ):
        assert part in about
    assert page.title() == page.inner_text("h1") == "Breakout: what the model attends to"

    # Scrubbing shows the step's screen, and the frames of its context.
    slide(page, "#scrub", 41)
    assert page.inner_text("#where") == "step 41 of 59"
    assert np.array_equal(pixels(page, "#screen"), episode.palette[episode.screens[41]])
    page.select_option("#saliency", "off")
    for cell in range(K + 3):
        frame = episode.states[41 - (K + 2 - cell), 3]
        plain = pixels(page, f".cell:nth-child({cell + 1}) canvas")
        assert np.array_equal(plain, np.repeat(frame[..., None], 3, axis=-1))

    # Saliency is laid over the frame that it is of, by the select and by the keyboard.
    page.select_option("#saliency", "gradient × input")
    assert not np.array_equal(pixels(page, f".cell:nth-child({K + 3}) canvas"), plain)
    page.locator("body").press("s")
    assert page.input_value("#saliency") == "planted"
    for cell in range(K + 3):
        frame = episode.states[41 - (K + 2 - cell), 3].astype(int)[..., None]
        change = pixels(page, f".cell:nth-child({cell + 1}) canvas") - frame
        if cell != FRAME:
            assert not change.any()
            continue
        assert change[15, 21].argmax() == 0 < change[15, 21].max()  # red, in the middle of the cell that speaks for it
        assert change[57, 63].argmin() == 0 < change[57, 63].max()  # anything but red
        assert not change[30:42].any()
    page.hover(f".cell:nth-child({FRAME + 1})")
    assert "100.0% of the saliency" in page.inner_text("#readout")
    assert f"{DATASET.action_meanings[episode.actions[39]]} was taken" in page.inner_text("#readout")
    page.hover(".cell:nth-child(2)")
    words = page.inner_text("#readout")
    assert words.startswith("Step 36, 5 steps back: no step of the context")
    assert "0.0% of the saliency" in words

    # Layer and head choose the weights that bars and words show.
    texts = set()
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
        words = page.inner_text("#readout")
        texts.add(words)
        assert words.startswith("Step 39, 2 steps back")
        for kind, weight in zip(KINDS, weights[1], strict=True):
            found = re.search(rf"\b{kind} ([\d.]+)%", words)
            assert found is not None
            assert float(found[1]) / 100 == pytest.approx(weight, abs=0.005)
        bars = ".cell:nth-child(n + 4) .bars span"
        heights = page.eval_on_selector_all(bars, "all => all.map(bar => parseFloat(bar.style.height))")
        assert np.array(heights).reshape(K, 3) / 44 == pytest.approx(weights / weights.max(), abs=0.03)
    assert len(texts) == 5
    # Every head's map is there, oldest step first, all in one scale; a click chooses it, and space plays still.
    all_heads = episode.attention[41]
    maps = [canvas(page, f"#heads button >> nth={i} >> canvas")[..., 3] for i in range(4)]
    expected = np.sqrt(all_heads.transpose(0, 1, 3, 2) / all_heads.max())
    assert np.stack(maps).reshape(2, 2, 3, K) / 255 == pytest.approx(expected, abs=0.03)
    page.click("#heads button >> nth=3")
    assert (page.input_value("#layer"), page.input_value("#head")) == ("1", "1")
    page.keyboard.press(" ")
    assert page.evaluate("view.playing")
    page.keyboard.press(" ")
    assert (page.input_value("#layer"), page.input_value("#head")) == ("1", "1")
    slide(page, "#scrub", 41)

    # The return slider shows what the policy would do.
    shown_probabilities = []
    for target in (recording.played, 0, 8):
        slide(page, "#target", target)
        numbers = page.eval_on_selector_all(
            "#actions .number", "all => all.map(each => parseFloat(each.textContent) / 100)"
        )
        assert numbers == pytest.approx(episode.probabilities[41, target], abs=0.0006)
        widths = page.eval_on_selector_all("#actions b", "all => all.map(bar => parseFloat(bar.style.width) / 100)")
        assert widths == pytest.approx(numbers)
        shown_probabilities.append(numbers)
    assert page.inner_text("#asked") == "had it been asked for 80 (2×)"
    assert shown_probabilities[1] != shown_probabilities[0] != shown_probabilities[2]
    page.click("#as-played")
    assert page.inner_text("#asked") == "asked for 40 (1×), as played"

    # The keyboard moves through the steps, and plays.
    body = page.locator("body")
    for key, step in (("ArrowRight", 42), ("Shift+ArrowLeft", 32), ("Home", 0), ("ArrowLeft", 0), ("End", 59)):
        body.press(key)
        assert page.inner_text("#where") == f"step {step} of 59"
    body.press("Home")
    body.press(" ")
    assert page.inner_text("#play") == "❚❚ pause"
    wait_until(page, "view.t >= 3")
    body.press(" ")
    stopped = page.evaluate("view.t")
    page.wait_for_timeout(300)
    assert page.evaluate("view.t") == stopped < 59
    page.click("#play")
    wait_until(page, f"view.t > {stopped}")
    page.locator("#target").press("ArrowRight")  # its own slider, not the step
    assert page.evaluate("[view.target, view.playing]") == [recording.played + 1, True]

    # However often it is started and stopped, it plays 15 steps a second, and does not jump when the browser stalled.
    slide(page, "#scrub", 0)
    start = page.evaluate(
        "for (const playing of [true, false, true, false, true]) setPlaying(playing); performance.now()"
    )
    wait_until(page, "view.t >= 8")
    page.evaluate("{ const until = performance.now() + 2000; while (performance.now() < until); }")
    wait_until(page, "view.t >= 12")
    step, now = page.evaluate("[view.t, performance.now()]")
    assert step <= 15 * ((now - start) / 1000 - 2 + 0.25) + 1

    # The other episode is there, too; its first steps have shorter contexts.
    page.select_option("#episode", index=1)
    wait_until(page, f"episode.score === {other.scores[-1]:g} && view.t === 0")
    slide(page, "#scrub", 1)
    assert np.array_equal(pixels(page, "#screen"), other.palette[other.screens[1]])
    assert page.locator(".cell.empty").count() == K + 3 - 2
    assert said == []


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_page_fits_a_laptop_and_a_phone(
    browser: Any, shown: tuple[TracedEvaluation, list[Maps], Path], said: list[str], width: int, height: int
) -> None:
    page = open_page(browser, shown[2], said, width, height)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    play = page.locator("#play").bounding_box()
    assert play is not None
    assert play["y"] + play["height"] <= height  # in view without scrolling
    assert said == []


def test_behavior_cloning_has_no_return_slider(browser: Any, tmp_path: Path, said: list[str]) -> None:
    protocol = EvaluationProtocol(sticky_actions=0.0)
    recording = trace_episodes(
        run_directory(tmp_path, "none"), PlayConfig(protocol, episodes=1, max_steps=10), show_progress=False
    )
    path = tmp_path / "viewer.html"
    path.write_text(viewer_page(recording, saliency_of(recording)), encoding="utf-8")
    page = open_page(browser, path, said)
    assert page.locator("#target").is_hidden()
    assert page.locator("#episode").is_hidden()
    assert "target return none (behavior cloning)" in page.inner_text("#about")
    page.locator("body").press("End")
    page.hover(".cell:nth-child(4)")
    assert re.fullmatch(r"Step 6, 3 steps back: state [\d.]+% · action [\d.]+%.*", page.inner_text("#readout"))
    assert said == []
