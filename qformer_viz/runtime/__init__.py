"""Checkpoints and the pipeline: load, encode an image, caption, ask, stream."""
