"""Configuration of other programs, made of our own: text out, nothing else."""
