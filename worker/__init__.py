"""The worker: turns tasks and a vocabulary into masks, and learns from corrections."""
