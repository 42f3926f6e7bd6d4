"""Images and labels: where they lie, how they are read and packed."""
