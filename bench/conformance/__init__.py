"""The conformance run: the guarantees, asked of every peer's application from outside."""
