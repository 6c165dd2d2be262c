"""Certificates of DTLS sessions, made without code that is compiled at run time.

aiortc has Python say of each certificate that it will do (the fingerprint is compared after the
handshake, RFC 8827, 6.5). libffi makes such a callback in memory that is both writable and
executable, which our systemd units deny. So OpenSSL asks a function of the C library instead.
"""

from __future__ import annotations

import ctypes

from aiortc.rtcdtlstransport import RTCCertificate, SRTPProtectionProfile
from OpenSSL import SSL
from OpenSSL._util import ffi, lib

_TYPE = "int (*)(int, X509_STORE_CTX *)"  # SSL_CTX_set_verify(3)
# It may take any arguments, and what it returns is never 0.
_ALWAYS_YES = ffi.cast(_TYPE, ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value)
_CIPHERS = b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305"  # RFC 8827, 6.5


class SessionCertificate(RTCCertificate):
    """A key pair of one session; `generateCertificate` makes it."""

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        context = SSL.Context(SSL.DTLS_METHOD)
        context.set_options(SSL.OP_NO_TICKET)
        mode = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        lib.SSL_CTX_set_verify(context._context, mode, _ALWAYS_YES)
        context.use_certificate(self._cert)
        context.use_privatekey(self._key)
        context.set_cipher_list(_CIPHERS)
        # Not used, but a browser's handshake wants it answered.
        context.set_tlsext_use_srtp(b":".join(one.openssl_profile for one in srtp_profiles))
        return context
