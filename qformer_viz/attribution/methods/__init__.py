"""The methods, one file each: every module here defines a `METHOD`."""
