"""Real servers for tests, private to one test session."""
