"""One application per file: the same three endpoints, each over another way to get a session."""
