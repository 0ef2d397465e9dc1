"""Corrections as training data: class maps, examples, the hold-out split."""
