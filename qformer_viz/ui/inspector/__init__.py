"""The views beside the picture, one file each."""
