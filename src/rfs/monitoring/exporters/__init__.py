"""Exporters: what RFS has measured, in the formats of other systems."""
