"""Speed, accuracy, and the simulations that validate the statistics; run from a checkout."""
