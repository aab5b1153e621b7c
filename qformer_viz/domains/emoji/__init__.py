"""The rendered world of the bundled models: scenes of emoji, drawn with their true masks."""
