"""The definition of a study: its file, read, checked and resolved."""
