"""What a study's records show, as numbers."""
