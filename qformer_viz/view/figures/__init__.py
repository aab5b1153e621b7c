"""Plotly figures, one file each: numbers in, figure out; no model involved."""
