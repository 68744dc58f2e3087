"""Blobs of storage accounts: signatures of an account key, containers, a small VHD. Standard library only.

Accounts are reached by path (`https://host:port/ACCOUNT/CONTAINER/BLOB`), whatever host name stands in an id or an example.
"""

import base64
import hashlib
import hmac
import re
import struct
import urllib.parse
import uuid

from client import Failure

# Of `https://account.blob.core.windows.net/container/name`.
URI = re.compile(r"https://([a-z0-9]{3,24})\.blob\.core\.windows\.net/([\w-]+)/([^\"?\s]+)", re.I)
VERSION = "2021-08-06"
MIB = 1 << 20


def sas(account, key):
    """An account SAS that may do everything with blobs."""
    fields = {"sv": VERSION, "ss": "b", "srt": "sco", "sp": "rwdlac", "se": "2099-01-01T00:00:00Z"}
    signed = [account, fields["sp"], fields["ss"], fields["srt"], "", fields["se"], "", "", VERSION, "", ""]
    digest = hmac.new(base64.b64decode(key), "\n".join(signed).encode(), hashlib.sha256).digest()
    return urllib.parse.urlencode({**fields, "sig": base64.b64encode(digest).decode()})


def footer(size):
    """The last 512 bytes of a fixed VHD of `size` bytes."""
    sectors = size // 512
    head = struct.pack(">8sIIQI4sI4sQQHBBI", b"conectix", 2, 0x10000, 2**64 - 1, 0, b"lazu", 0x10000, b"Wi2k",
                       size, size, sectors // (4 * 17), 4, 17, 2)
    tail = uuid.uuid4().bytes + bytes(1 + 427)
    checksum = ~sum(head + tail) & 0xFFFFFFFF
    return head + struct.pack(">I", checksum) + tail


class Blobs:
    """The blobs of one account."""

    def __init__(self, client, account, key):
        self.client = client
        self.account = account
        self.signature = sas(account, key)

    def send(self, method, path, query="", body=b"", **headers):
        url = f"{self.client.base}/{self.account}/{path}?{query}{'&' if query else ''}{self.signature}"
        named = {name.replace("_", "-"): str(value) for name, value in headers.items()}
        answer = self.client.raw(method, url, body, {"x-ms-version": VERSION, "content-length": str(len(body)), **named})
        if not answer.ok and not (answer.status == 409 and method == "PUT"):
            raise Failure(f"{method} {path} of account {self.account}: {answer}")
        return answer

    def container(self, name):
        self.send("PUT", name, "restype=container")

    def vhd(self, path, size=MIB):
        """A fixed VHD full of zeros."""
        self.send("PUT", path, x_ms_blob_type="PageBlob", x_ms_blob_content_length=size + 512)
        self.send("PUT", path, "comp=page", footer(size), x_ms_page_write="update", x_ms_range=f"bytes={size}-{size + 511}")

    def file(self, path, content):
        self.send("PUT", path, body=content, x_ms_blob_type="BlockBlob")
