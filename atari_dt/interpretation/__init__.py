"""What a trained model looks at while it plays: attention, saliency, and a page to look at them."""
