"""Corrections -> a better next prediction: what annotators accepted, recipes that learn from it, the gate, versions."""
