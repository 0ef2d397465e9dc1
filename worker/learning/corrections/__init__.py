"""Corrections as training data: class maps and examples."""
