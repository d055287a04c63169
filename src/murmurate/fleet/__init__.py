"""How many of each process there should be, and when a dead one comes back. Pure."""
