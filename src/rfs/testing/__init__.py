"""Helpers for tests of code that returns Results, and of its telemetry. Each module is imported by its own name; this one loads nothing."""
