"""How long a step takes: work and messages of chips, schedules, exchanges of gradients."""
