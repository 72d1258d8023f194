"""What a run will cost, before it is started: time, energy, grams, memory, each with an interval and its basis."""
