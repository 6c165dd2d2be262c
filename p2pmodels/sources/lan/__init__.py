"""The peers nearby: finding them (mDNS or by hand), greeting them, asking what they have.

zeroconf's only home. May import `core`; knows nothing of the store, the swarm or the origin.
"""
