"""Where users already are: each module here serves one framework and is imported only on demand.

A module asks for its framework by `requirements.require` before it imports it, so that a missing extra or an
old version is answered with the line that mends it.
"""
