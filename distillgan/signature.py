"""SSHSIG signatures: armor, blob and, through the system's `ssh-keygen`, making and checking them.

Format: OpenSSH PROTOCOL.sshsig.
"""

from __future__ import annotations

import base64
import binascii
import struct

import msgspec

from .errors import FormatError

NAMESPACE = "distillgan"
MAX_ARMOR = 16 * 1024

_BEGIN = b"-----BEGIN SSH SIGNATURE-----\n"
_END = b"-----END SSH SIGNATURE-----\n"
_COLUMNS = 70
_MAGIC = b"SSHSIG"


class Signature(msgspec.Struct, frozen=True):
    """What an armor says, unchecked: the signer's public key (wire form) and its algorithm."""

    public_key: bytes
    key_type: str

    @property
    def fingerprint(self) -> str:
        """The key's fingerprint as `ssh-keygen -l` shows it."""
        import hashlib  # OpenSSL, for signed files only

        digest = hashlib.sha256(self.public_key).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def decode_armor(armor: bytes) -> Signature:
    """Read an armored signature; FormatError `signature.armor` unless ssh-keygen wrote it so."""
    try:
        blob = base64.b64decode(armor[len(_BEGIN) : -len(_END)].replace(b"\n", b""), validate=True)
        if _encode_armor(blob) != armor:
            raise ValueError("the armor is not as ssh-keygen writes it")
        return _decode_blob(blob)
    except (binascii.Error, struct.error, UnicodeDecodeError, ValueError) as error:
        raise FormatError("signature.armor", str(error), where="manifest.json.sig") from None


def summary(armor: bytes | None) -> str:
    """A signature in a line, or `none`; FormatError `signature.armor`."""
    if armor is None:
        return "none"
    found = decode_armor(armor)
    return f"{found.key_type} {found.fingerprint}, unchecked (distillgan verify --allowed-signers)"


def _encode_armor(blob: bytes) -> bytes:
    text = base64.b64encode(blob)
    lines = [text[i : i + _COLUMNS] + b"\n" for i in range(0, len(text), _COLUMNS)]
    return _BEGIN + b"".join(lines) + _END


def _decode_blob(blob: bytes) -> Signature:
    if blob[:6] != _MAGIC or struct.unpack_from(">L", blob, 6)[0] != 1:
        raise ValueError("not a version 1 SSHSIG blob")
    fields, rest = [], blob[10:]
    for _ in range(5):  # public key, namespace, reserved, hash algorithm, signature
        size = struct.unpack_from(">L", rest)[0]
        if size > len(rest) - 4:
            raise ValueError("a field reaches past the end of the blob")
        fields.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    if rest or fields[1] != NAMESPACE.encode():
        raise ValueError(f"the signature is not one in the namespace {NAMESPACE!r}")
    size = struct.unpack_from(">L", fields[0])[0]
    return Signature(fields[0], fields[0][4 : 4 + size].decode("ascii"))
