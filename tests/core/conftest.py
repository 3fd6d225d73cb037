"""Property tests draw the same examples everywhere, without deadlines: machines are noisy."""

from hypothesis import settings

settings.register_profile("reproducible", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("reproducible")
