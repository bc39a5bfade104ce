"""Runs, sweeps of runs, and their reports."""
