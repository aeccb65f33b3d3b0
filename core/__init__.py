"""The compression engine. Usable from a notebook, the command line, a cluster worker; imports no streamlit and, here, no torch."""

__version__ = "0.1.0"
ENGINE_VERSION = 1  # raised when the same recipe would give other figures; part of every run's identity
