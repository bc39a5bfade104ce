"""Batches of training data, gathered on the device from single observations."""
