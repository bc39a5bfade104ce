"""Runs, and what is reported of them."""
