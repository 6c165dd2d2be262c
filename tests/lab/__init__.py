"""`make lab`: one download for a whole room, proved with real daemons in network namespaces.

1. Every machine is a namespace of its own on one bridge, with a narrow cable; the origin hangs
   behind a slow uplink that all share. The programs are the real ones: `python -m p2pmodels serve`
   and huggingface_hub.
2. Bytes are read from the interfaces, requests from the origin's own access log, times from the
   clients. The daemons are never asked how well they did.
3. Every file that a client got is compared with the digest of what the origin holds.
4. Everything is bounded in time, and everything made is removed, also after Ctrl-C.
"""
