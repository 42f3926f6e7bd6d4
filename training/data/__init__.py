"""Images and labels: where they lie, how they are read and converted, and how a run shows them."""
