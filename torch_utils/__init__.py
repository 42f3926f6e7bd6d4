"""What the networks, the training loop and the metrics share and that needs torch: operators,
statistics, processes."""
