"""The single entry: HTTP in, one typed `Request` down, deltas back up as OpenAI's wire format."""
