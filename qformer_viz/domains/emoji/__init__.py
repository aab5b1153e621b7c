"""The domain of the bundled models: rendered scenes of emoji with their true masks."""
