"""Applications that show how the library is used; each runs as it stands."""
