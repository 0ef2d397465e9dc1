"""Images -> patch features: backbones, readouts, windows, precision."""
