"""The recipe the service runs: seconds on a CPU."""
