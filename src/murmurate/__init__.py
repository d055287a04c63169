"""murmurate turns an AI agent, or just a model, into a production service.

Importing this package loads nothing heavy: start a service with `murmurate up`, or compose one in
Python with `murmurate.compose`.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
