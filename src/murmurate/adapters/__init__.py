"""The outside world: a file per system, or a folder where a system serves several ports."""
