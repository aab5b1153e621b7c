"""The files of the Export tab, one module each: every module here defines an `EXPORT`."""
