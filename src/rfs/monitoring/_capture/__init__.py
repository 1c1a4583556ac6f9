"""How a measurement and a record are kept: cells, sketches and segments."""
