"""What goes on beside the steps of a run: ticks, saved states, status, logs, health, pictures."""
