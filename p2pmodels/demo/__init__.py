"""The demo: a small hub with the real protocol, two daemons, a real model.

The hub also is the origin of the project's own tests. May import everything but `cli`.
"""
