"""What a run is: its options, base configurations and presets, and what its directory says of it."""
