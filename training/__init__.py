"""Training: networks, data, augmentation, losses, and the loop."""
