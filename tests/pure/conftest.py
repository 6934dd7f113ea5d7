"""Property tests of this tier: few examples, the same each time, and no clock."""

from hypothesis import settings

settings.register_profile("pure", max_examples=25, deadline=None, derandomize=True, database=None)
settings.load_profile("pure")
