"""WebRTC: shard channels to browsers and to machines whose inbound TCP is blocked.

The home of aiortc, aioice and uvloop, which run in a child process only. May import `core`; knows
nothing of the store, the LAN links or the origin. `rtc.py` is what the rest of the daemon uses.
"""
