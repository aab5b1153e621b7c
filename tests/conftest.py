"""What every test shares."""

from hypothesis import settings

# No deadline: the machines that run this are shared, and a slow example is not a wrong one.
settings.register_profile("shared machine", deadline=None, max_examples=50)
settings.load_profile("shared machine")
