"""What a directory with a released model must hold."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard

from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.run_evaluation import evaluate_runs

CHECKPOINT = ("README.md", "config.json", "model.safetensors")
MAX_BYTES = 3_000_000


def check_release(directory: Path, name: str) -> None:
    """Check that a directory has a small model that plays, and a card with its data, scores, license and commands.

    Args:
        directory: The directory.
        name: What the commands of the card call it.
    """
    files = {path.name: path.stat().st_size for path in directory.iterdir()}
    assert {*CHECKPOINT} <= files.keys() <= {*CHECKPOINT, "viewer.html"}
    assert sum(files[name] for name in CHECKPOINT) <= MAX_BYTES
    assert files.get("viewer.html", 0) <= MAX_BYTES

    play = PlayConfig(episodes=1, max_steps=4, device="cpu")
    evaluation = evaluate_runs([directory], play, show_progress=False)
    (results,) = evaluation.results
    assert [result.lengths.tolist() for result in results] == [[4]] * len(results)

    card = ModelCard.load(directory / "README.md")
    (dataset,) = evaluation.datasets
    assert card.data.license
    assert {result.dataset_name for result in card.data.eval_results or []} == {dataset.game}
    assert f"| digest | {dataset.digest} |" in card.text
    assert f'load_model("{name}")' in card.text
    (commands,) = [part.partition("```")[0].splitlines() for part in card.text.split("```bash\n")[1:]]
    evaluate, draw = (command.split() for command in commands)
    assert evaluate[:3] == ["python", "scripts/evaluate.py", name]
    assert draw[0] == "python"
    assert draw[1].startswith("scripts/visualize_")
    assert draw[2] == name
