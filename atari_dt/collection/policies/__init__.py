"""Policies that were trained elsewhere, as the recorder plays them."""
