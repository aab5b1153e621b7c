"""What maps and states say, as numbers: pure functions from tensors to dataclasses."""
