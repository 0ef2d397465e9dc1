"""Attacks on the product from outside: HTTP, Redis, Label Studio's API, files. `make attack` runs them all."""
