"""The swarm: BitTorrent by libtorrent, whose objects never leave this folder.

May import `core` and `store`, never another source. What is here:

- `bencode`   the encoding of BEP 3, strict and bounded
- `hashing`   the hashes of a file as BitTorrent wants them
- `torrents`  making, reading and checking .torrent files (pure bytes, no libtorrent)
- `layout`    where the files of a torrent lie among its pieces
- `settings`  what the session may and may not do on the network
- `alerts`    libtorrent's events as plain values
- `session`   the life-cycle of the one libtorrent session and its pump of events
- `filling`   one torrent being downloaded file by file into partials
- `swarm`     the part that the daemon composes
"""
