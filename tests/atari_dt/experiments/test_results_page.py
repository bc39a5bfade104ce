"""Tables between the markers of a page."""

from __future__ import annotations

import pytest

from atari_dt.experiments.results_page import fill_blocks, find_blocks, linked_figures
from replay_data import InputError

PAGE = """# Results
<!-- begin a:scores -->
old
<!-- end a:scores -->
text\x0cwith a form feed
  <!--begin b-->
  <!--end b-->
<!-- begin c -->

| by hand |

<!-- end c -->

no line break at the end"""

TABLES = {"a": {"scores": [["game", "score"], ["Pong|x", "-1.5"]]}, "b": {"": [["K"], ["1"]], "other": [["x"]]}}

FILLED = """# Results
<!-- begin a:scores -->

| game | score |
|---|---:|
| Pong&#124;x | -1.5 |

<!-- end a:scores -->
text\x0cwith a form feed
  <!--begin b-->

| K |
|---:|
| 1 |

  <!--end b-->
<!-- begin c -->

| by hand |

<!-- end c -->

no line break at the end"""


def test_tables_are_filled_in_and_the_rest_stays() -> None:
    assert fill_blocks(PAGE, TABLES) == (FILLED, ["a:scores", "b"])
    assert fill_blocks(FILLED, TABLES) == (FILLED, [])
    assert fill_blocks(PAGE, {}) == (PAGE, [])
    assert [block.label for block in find_blocks(PAGE)] == ["a:scores", "b", "c"]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- begin a -->\n", "the block a, which begins in line 1, does not end"),
        ("x\n<!-- end a -->", "line 2 of the page, <!-- end a -->, has no partner"),
        ("<!-- begin a -->\n<!-- begin b -->\n<!-- end b -->\n<!-- end a -->", "line 2 of the page"),
        ("<!-- begin a -->\n<!-- end a:scores -->", "line 2 of the page"),
        ("<!-- begin b:none -->\n<!-- end b:none -->", "no table for the block b:none; its tables are b, b:other"),
    ],
)
def test_markers_without_a_partner_or_a_table_are_named(page: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fill_blocks(page, TABLES)


def test_links_to_figures_are_found() -> None:
    text = '![x](images/a-b.png) and <img src="docs/images/c.png"> (images/d.jpg) [a](https://x.org/images/e.png)'
    assert linked_figures(text) == {"a-b", "c", "e"}
