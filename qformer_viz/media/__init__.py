"""Pictures and videos: what is accepted, and decoding it."""
