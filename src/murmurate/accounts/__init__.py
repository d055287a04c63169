"""Who used what, and what it cost."""
