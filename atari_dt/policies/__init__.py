"""Policies: what a trained model does in N environments, step by step."""
