#!/usr/bin/env python3
"""Uploads a file to a page blob with azure-storage-blob, downloads it again and compares.

    blob_sdk.py SAS_URL FILE [--download-only]

SAS_URL is what beginGetAccess gave (Write for an upload; Read with --download-only), FILE the VHD. The CA of the server is found
through REQUESTS_CA_BUNDLE. Ends with 0 only if the bytes that come back are those of FILE.
"""

import argparse
import hashlib
import os
import sys
import tempfile

from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobClient


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def download(blob, want, concurrency):
    with tempfile.NamedTemporaryFile() as file:
        blob.download_blob(max_concurrency=concurrency).readinto(file)
        file.flush()
        found = sha256(file.name)
    if found != want:
        sys.exit(f"downloaded with {concurrency} connections: SHA-256 {found} instead of {want}")


def upload(blob, path, concurrency):
    with open(path, "rb") as file:
        # The default refuses an existing blob: True is needed for the second round.
        blob.upload_blob(file, blob_type="PageBlob", overwrite=concurrency > 1, max_concurrency=concurrency)
    properties = blob.get_blob_properties()
    size = os.path.getsize(path)
    if properties.size != size or properties.blob_type != "PageBlob":
        sys.exit(f"the blob is a {properties.blob_type} of {properties.size} bytes, not a PageBlob of {size}")


def check_pages(blob, path):
    """Outside of the listed pages, the file has zeros only."""
    pages, _ = blob.get_page_ranges()
    at = 0
    with open(path, "rb") as file:
        for page in [*pages, {"start": os.path.getsize(path), "end": None}]:
            while at < page["start"]:
                piece = file.read(min(1 << 20, page["start"] - at))
                if any(piece):
                    sys.exit(f"data at {at} is in no page range")
                at += len(piece)
            if page["end"] is not None:
                at = page["end"] + 1
                file.seek(at)


def check_refusals(blob):
    try:
        blob.resize_blob(512)
    except HttpResponseError as error:
        if error.error_code != "InvalidHeaderValue":
            raise
    else:
        sys.exit("a disk's blob was resized")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("file")
    parser.add_argument("--download-only", action="store_true")
    args = parser.parse_args()
    want = sha256(args.file)
    with BlobClient.from_blob_url(args.url) as blob:
        for concurrency in (1, 4):
            if not args.download_only:
                upload(blob, args.file, concurrency)
            download(blob, want, concurrency)
        check_pages(blob, args.file)
        if not args.download_only:
            check_refusals(blob)
    print(f"ok {want}")


if __name__ == "__main__":
    main()
