"""The viewer page of a model that observes vectors, in a browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.interpretation.predictions import predict_next
from atari_dt.interpretation.tracing import trace_episodes
from atari_dt.interpretation.viewer import viewer_page
from tests.atari_dt.interpretation.pages import canvas, open_page, pixels, slide
from tests.atari_dt.interpretation.vector_runs import vector_run


def test_page_of_a_model_of_ram_lists_the_top_entries(browser: Any, tmp_path: Path, messages: list[str]) -> None:
    traced = trace_episodes(vector_run(tmp_path, "ram"), PlayConfig(episodes=1, max_steps=12), show_progress=False)
    (episode,) = traced.episodes
    saliency = np.zeros((12, 3, 128), dtype=np.float32)
    saliency[:, 2, 99], saliency[:, 1, 99], saliency[:, 0, 72] = 4, -1, -2
    saliency[6, 2, 50] = 16  # the largest of one step, but not of the episode
    path = tmp_path / "viewer.html"
    path.write_text(viewer_page(traced, [{"planted": saliency}], "the logit"), encoding="utf-8")
    page = open_page(browser, path, messages)
    slide(page, "#scrub", 6)
    assert page.locator(".cell").count() == 3
    for cell in range(3):  # plain frames
        frame = np.repeat(episode.frames[6 - (2 - cell)][..., None], 3, axis=-1)
        assert np.array_equal(pixels(page, f".cell:nth-child({cell + 1}) canvas"), frame)
    page.hover(".cell:nth-child(2)")
    assert re.search(r"saliency 4\.[0-9]%", page.inner_text("#readout"))  # 1 of 23

    def shown(selector: str) -> list[str]:
        return page.locator(selector).all_inner_texts()

    predictions = predict_next(traced.model, episode)
    assert predictions.states is not None
    for ranking, entries in (("episode", (99, 72, 50)), ("step", (50, 99, 72))):
        page.select_option("#ranking", ranking)
        assert shown("#entries .name")[:3] == [traced.entry_names[entry] for entry in entries]
        numbers = np.array(shown("#entries .number:not(.faint)"), dtype=int).reshape(-1, 3)[:3]
        assert np.array_equal(numbers[:, 0], episode.states[6, list(entries)])
        assert np.array_equal(numbers[:, 1], episode.states[7, list(entries)])
        assert np.abs(numbers[:, 2] - predictions.states[6, list(entries)]).max() <= 0.51
    bars = "all => all.map(bar => parseFloat(bar.style.width))"
    raises = page.eval_on_selector_all("#entries .raises", bars)[:3]
    lowers = page.eval_on_selector_all("#entries .lowers", bars)[:3]
    assert raises == pytest.approx([50, 50 * 4 / 16, 0], abs=2)
    assert lowers == pytest.approx([0, 50 * 1 / 16, 50 * 2 / 16], abs=2)
    steps = canvas(page, "#entries canvas >> nth=1")[0]
    assert steps[:, 3] / 255 == pytest.approx([0, 1 / 16, 4 / 16], abs=0.04)  # 31 levels
    assert steps[1, 2] > 200 > 100 > steps[1, 0]  # lowers the score
    assert steps[2, 0] > 200  # raises it
    assert f"{predictions.returns[6]:.2f}".rstrip("0") in page.inner_text("#facts")  # type: ignore[index]
    page.locator("body").press("End")
    assert shown("#entries .number:not(.faint)")[1] == "–"
    page.select_option("#saliency", "off")
    assert set(page.eval_on_selector_all("#entries b", bars)) == {0}
    assert "effect of a byte on the logit of the action taken" in page.inner_text("#help")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert messages == []
