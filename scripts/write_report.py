"""Write the reports of sweeps again, from the files of their runs."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

from pathlib import Path

import tyro

from atari_dt.command_line import run
from replay_data import InputError


def main(sweeps: tyro.conf.Positional[tuple[Path, ...]], archive: Path | None = None) -> None:
    """Write report.md, report.html and their figures for all runs of a sweep, without training or evaluating anything.

    Args:
        sweeps: Directories that scripts/reproduce_benchmark.py or scripts/ablate_context_length.py wrote. With
            --archive, also archives, to which the runs of the directories are added.
        archive: Also write the data of the report, or of all reports together, to this JSON file, such as
            docs/data/sweep.json. It has no checkpoints and no absolute paths. scripts/build_results.py makes tables and
            figures of it, and scripts/rerun.py repeats one of its runs.
    """
    from atari_dt.experiments.archive_writer import is_archive, write_archive
    from atari_dt.experiments.report import write_report

    if not sweeps:
        raise InputError("give the directory of at least one sweep")
    directories = [sweep for sweep in sweeps if not is_archive(sweep)]
    if archive is not None:
        write_archive(sweeps, archive)
    elif len(directories) < len(sweeps):
        raise InputError("an archive has no report of its own; give `archive` too, to add sweeps to it")
    for sweep in directories:
        print(write_report(sweep))
        print(f"report: {sweep / 'report.html'}")
    if archive is not None:
        print(f"archive: {archive} ({archive.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    run(main)
