"""What one machine needs: environments, an embedded Redis, ports, processes and their supervision."""
