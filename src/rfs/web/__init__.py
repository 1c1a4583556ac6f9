"""Adapters to web frameworks; each imports its framework, and nothing else of RFS imports them."""
