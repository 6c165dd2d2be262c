"""The HTTP doors: guard, hub, files, control, page, health, and the peer port.

The only home of `aiohttp.web` (besides the demo's hub). Imports everything left of it.
"""
