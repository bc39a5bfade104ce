"""Attention and saliency of a trained model's decisions, and the figures, video and web page that show them."""
