#!/usr/bin/env python3
"""Verifies what is known of an image's build, with nothing of Lazuli's: DSSE envelopes, Ed25519.

    lazuli image show --json IMAGE_ID > build.json
    verify-build.py KEY build.json > sbom.cdx.json

KEY is the server's public key in hexadecimal digits (`signed` of `lazuli image show`), noted when it was known to be right: a key that
comes along with a document proves nothing. Prints the CycloneDX document; fails if a signature is not of this key, or if the two
statements are not of one image. Needs the package cryptography.
"""

import base64
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def statement(key, envelope):
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    for signature in envelope["signatures"]:
        try:
            key.verify(base64.b64decode(signature["sig"]), signed)
            return json.loads(payload)
        except InvalidSignature:
            pass
    raise InvalidSignature


def main():
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(sys.argv[1]))
    with open(sys.argv[2], encoding="utf-8") as file:
        build = json.load(file)
    try:
        provenance, sbom = (statement(key, build[name]) for name in ("provenance", "sbom"))
    except InvalidSignature:
        sys.exit("NOT VERIFIED: no signature is of this key")
    if provenance["subject"] != sbom["subject"]:
        sys.exit("NOT VERIFIED: the two statements are of different images")
    print(json.dumps(sbom["predicate"], indent=2))


if __name__ == "__main__":
    main()
