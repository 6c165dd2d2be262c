"""Origins: the authoritative hub and its mirrors, over HTTP.

1. Digests come from origins of kind `hub` only; a mirror gives bytes and is checked against them.
2. A token goes to the configured origin and nowhere else; signed addresses are secrets.
3. An answer never leads to an address that this machine should not be made to contact.

The one home of the hub's protocol seen from the client's side. Imports core, store, errors, clock.
"""
