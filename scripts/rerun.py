"""Do a run of an archived sweep again, and check that its result is the same."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

from pathlib import Path

import tyro

from atari_dt.command_line import run as run_command
from replay_data import InputError


def main(
    archive: tyro.conf.Positional[Path],
    run: tyro.conf.Positional[str],
    data: Path,
    out: Path = Path("runs/rerun"),
) -> None:
    """Train and evaluate a run of an archive again, and compare its scores and validation losses with the archived
    ones.

    The run has the archived config, number of threads and type of the forward pass. On the same kind of CPU, with the
    same versions of the packages, every number is the same. On another kind of CPU, sums are rounded differently: the
    last digits of losses may then differ, and after many updates, actions and scores too. The exit status is 1 if
    anything differs.

    Args:
        archive: File that scripts/write_report.py --archive wrote, such as docs/data/sweep.json.
        run: Name of the run, such as Breakout-DT-seed0.
        data: Trajectory store that the run was trained on, with the archived SHA-256.
        out: Directory for the rerun; the same command continues an interrupted one.
    """
    from atari_dt.experiments.archive import read_archive
    from atari_dt.experiments.rerun import compare_results, comparison_rows, explain_differences, rerun
    from atari_dt.rendering.tables import align_columns

    archived = read_archive(archive).find_run(run)
    result, costs = rerun(archived, data, out / archive.stem)
    assert archived.result is not None
    assert archived.costs is not None
    comparisons = compare_results(archived.result, result)
    print(align_columns(comparison_rows(comparisons)))
    if differing := [each for each in comparisons if not each.same]:
        raise InputError(
            f"{run} differs from its archive in {len(differing)} of {len(comparisons)} rows; "
            f"{explain_differences(archived.costs, costs)}"
        )
    print(f"{run}: the same")


if __name__ == "__main__":
    run_command(main)
