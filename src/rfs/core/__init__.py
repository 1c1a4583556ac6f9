"""The value types on which everything else stands: ``rfs.core.result``."""
