"""Corrections as training data: class maps and examples. It must not depend on recipes or the gate."""
