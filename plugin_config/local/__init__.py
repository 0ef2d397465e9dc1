"""What one machine runs: virtual environments, an embedded Redis, processes and their supervision."""
