"""Before a run: what the machine has, what a run will need of memory, time and disk, and what would fit."""
