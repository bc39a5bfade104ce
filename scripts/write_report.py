"""Write the report of a sweep again, from the files of its runs."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

from pathlib import Path

import tyro

from atari_dt.command_line import run


def main(sweep: tyro.conf.Positional[Path]) -> None:
    """Write report.md, report.html and their figures for all runs of a sweep, without training or evaluating anything.

    Args:
        sweep: Directory that scripts/reproduce_benchmark.py or scripts/ablate_context_length.py wrote.
    """
    from atari_dt.experiments.report import write_report

    print(write_report(sweep))
    print(f"report: {sweep / 'report.html'}")


if __name__ == "__main__":
    run(main)
