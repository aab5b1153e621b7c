"""Whether a map is true, and whether a checkpoint works here."""
