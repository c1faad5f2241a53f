"""The parts of `untrained.py`: encoders, collections that are searched, and what is measured."""
