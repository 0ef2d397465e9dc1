"""What one machine runs: virtual environments, an embedded Redis, processes and their supervision.

It must not depend on Label Studio's API or on learned versions.
"""
