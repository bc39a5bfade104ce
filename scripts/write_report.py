"""Write the report of a sweep again, from the files of its runs."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

from pathlib import Path

import tyro

from atari_dt.command_line import run


def main(sweep: tyro.conf.Positional[Path], archive: Path | None = None) -> None:
    """Write report.md, report.html and their figures for all runs of a sweep, without training or evaluating anything.

    Args:
        sweep: Directory that scripts/reproduce_benchmark.py or scripts/ablate_context_length.py wrote.
        archive: Also write the data of the report to this JSON file, such as docs/data/sweep.json. It has no
            checkpoints and no absolute paths. scripts/build_results.py makes tables and figures of it, and
            scripts/rerun.py repeats one of its runs.
    """
    from atari_dt.experiments.report import write_report

    if archive is not None:
        from atari_dt.experiments.archive import archive_sweep

        archive_sweep(sweep, archive)
    print(write_report(sweep))
    print(f"report: {sweep / 'report.html'}")
    if archive is not None:
        print(f"archive: {archive} ({archive.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    run(main)
