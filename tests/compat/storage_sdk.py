#!/usr/bin/env python3
"""Uses a storage account with azure-storage-blob: every kind of blob, lists, leases, copies, snapshots, signatures.

    storage_sdk.py ENDPOINT ACCOUNT KEY FILE CREDENTIALS

ENDPOINT is https://host:port of the server, FILE a VHD, CREDENTIALS the server's credentials.json. The CA of the server is found
through REQUESTS_CA_BUNDLE. Ends with 0 only if everything was as Azure has it.
"""

import hashlib
import json
import os
import sys
from datetime import datetime, timedelta, timezone

from azure.core.exceptions import HttpResponseError
from azure.identity import ClientSecretCredential
from azure.storage.blob import (
    AccountSasPermissions,
    BlobBlock,
    BlobClient,
    BlobPrefix,
    BlobSasPermissions,
    BlobServiceClient,
    ContainerSasPermissions,
    ResourceTypes,
    StandardBlobTier,
    generate_account_sas,
    generate_blob_sas,
    generate_container_sas,
)


def check(what, condition):
    if not condition:
        sys.exit(f"FAIL {what}")


def refused(what, code, call):
    try:
        call()
    except HttpResponseError as error:
        check(f"{what}: {error.error_code} instead of {code}", error.error_code == code)
    else:
        sys.exit(f"FAIL {what}: not refused")


def blocks(container):
    data = os.urandom(9 << 20)
    blob = container.get_blob_client("dir/blocks.bin")
    blob.upload_blob(data, max_concurrency=2, metadata={"a": "b"}, standard_blob_tier=StandardBlobTier.COOL)
    refused("an existing blob is not overwritten", "BlobAlreadyExists", lambda: blob.upload_blob(b"x"))
    check("the bytes come back", blob.download_blob(max_concurrency=3).readall() == data)
    check("a range comes back", blob.download_blob(offset=1000, length=5000, validate_content=True).readall() == data[1000:6000])
    properties = blob.get_blob_properties()
    check("metadata and tier", properties.metadata == {"a": "b"} and properties.blob_tier == "Cool")
    staged = container.get_blob_client("staged")
    for name in ("one", "two", "six"):
        staged.stage_block(name, f"{name},".encode(), validate_content=True)
    committed, uncommitted = staged.get_block_list("all")
    check("three blocks wait", (len(committed), len(uncommitted)) == (0, 3))
    staged.commit_block_list([BlobBlock("two"), BlobBlock("one")])
    check("blocks in the order of the list", staged.download_blob().readall() == b"two,one,")
    staged.stage_block_from_url("copy", blob.url + "?" + read_sas(container, blob.blob_name), 0, 4)
    staged.commit_block_list([BlobBlock("one"), BlobBlock("copy")])
    check("a block from another blob", staged.download_blob().readall() == b"one," + data[:4])
    empty = container.upload_blob("empty", b"")
    check("an empty blob", empty.download_blob().readall() == b"" and empty.get_blob_properties().size == 0)


def read_sas(container, name):
    return generate_blob_sas(
        container.account_name,
        container.container_name,
        name,
        account_key=container.credential.account_key,
        permission=BlobSasPermissions(read=True),
        expiry=datetime.now(timezone.utc) + timedelta(hours=1),
    )


def appends(container):
    blob = container.get_blob_client("log")
    blob.create_append_blob()
    for n in range(5):
        done = blob.append_block(f"line {n}\n".encode(), validate_content=True)
    check("the fifth block", done["blob_committed_block_count"] == 5 and done["blob_append_offset"] == "28")
    check("lines", blob.download_blob().readall() == b"".join(f"line {n}\n".encode() for n in range(5)))
    wrong = lambda: blob.append_block(b"x", appendpos_condition=3)
    refused("a wrong position", "AppendPositionConditionNotMet", wrong)


def pages(container, path):
    blob = container.get_blob_client("disk.vhd")
    with open(path, "rb") as file:
        blob.upload_blob(file, blob_type="PageBlob", max_concurrency=2)
    with open(path, "rb") as file:
        whole = file.read()
    check("the VHD comes back", hashlib.sha256(blob.download_blob().readall()).digest() == hashlib.sha256(whole).digest())
    before = blob.create_snapshot()["snapshot"]
    blob.upload_page(b"\x07" * 512, offset=1 << 20, length=512)
    changed, cleared = blob.get_page_ranges(previous_snapshot_diff=before)
    check("one page differs", changed == [{"start": 1 << 20, "end": (1 << 20) + 511}] and cleared == [])
    old = container.get_blob_client("disk.vhd", snapshot=before)
    check("the snapshot is as it was", old.download_blob(offset=1 << 20, length=512).readall() == whole[1 << 20 : (1 << 20) + 512])
    target = container.get_blob_client("copy.vhd")
    copied = target.start_copy_from_url(old.url)
    check("the copy is there", copied["copy_status"] == "success")
    check("and equal", target.download_blob().readall() == whole)
    check("the copy is told", target.get_blob_properties().copy.status == "success")
    foreign = lambda: target.start_copy_from_url("https://example.com/c/b")
    refused("a foreign source", "CannotVerifyCopySource", foreign)
    refused("snapshots are in the way", "SnapshotsPresent", lambda: blob.delete_blob())
    blob.resize_blob(8 << 20)
    check("resized", blob.get_blob_properties().size == 8 << 20)
    blob.set_sequence_number("update", "7")
    check("numbered", blob.get_blob_properties().page_blob_sequence_number == 7)
    blob.delete_blob(delete_snapshots="include")


def leases(container):
    blob = container.upload_blob("leased", b"x")
    lease = blob.acquire_lease(15)
    refused("a write without the lease", "LeaseIdMissing", lambda: blob.set_blob_metadata({"a": "b"}))
    blob.set_blob_metadata({"a": "b"}, lease=lease)
    check("leased", blob.get_blob_properties().lease.state == "leased")
    lease.renew()
    check("broken at once", lease.break_lease(0) == 0)
    check("broken", blob.get_blob_properties().lease.state == "broken")
    blob.delete_blob()


def lists(container):
    for name in ("l/1", "l/2", "l/m/3", "l/m/4"):
        container.upload_blob(name, name.encode())
    check("by prefix", [b.name for b in container.list_blobs("l/")] == ["l/1", "l/2", "l/m/3", "l/m/4"])
    # The SDK gives the prefixes of a part first.
    walked = list(container.walk_blobs("l/"))
    check("walked", [b.name for b in walked] == ["l/m/", "l/1", "l/2"] and isinstance(walked[0], BlobPrefix))
    parts = container.list_blobs("l/", results_per_page=3).by_page()
    check("in parts", [len(list(part)) for part in parts] == [3, 1])


def signatures(service, container, endpoint, credentials):
    account, key, name = container.account_name, container.credential.account_key, container.container_name
    until = datetime.now(timezone.utc) + timedelta(hours=1)
    url = f"{endpoint}/{account}/{name}/staged"
    by_blob = BlobClient.from_blob_url(f"{url}?{read_sas(container, 'staged')}")
    want = by_blob.download_blob().readall()
    refused("reading is no writing", "AuthorizationPermissionMismatch", lambda: by_blob.set_blob_metadata({"a": "b"}))
    other = BlobClient.from_blob_url(f"{endpoint}/{account}/{name}/empty?{read_sas(container, 'staged')}")
    refused("another blob", "AuthenticationFailed", lambda: other.download_blob())
    sas = generate_account_sas(account, key, ResourceTypes(object=True), AccountSasPermissions(read=True), until)
    check("account SAS", BlobClient.from_blob_url(f"{url}?{sas}").download_blob().readall() == want)
    sas = generate_container_sas(account, name, key, permission=ContainerSasPermissions(create=True), expiry=until)
    create = BlobClient.from_blob_url(f"{url}?{sas}")
    refused("create is no overwrite", "UnauthorizedBlobOverwrite", lambda: create.upload_blob(b"x", overwrite=True))
    stale = generate_account_sas(account, key, ResourceTypes(object=True), AccountSasPermissions(read=True), until - timedelta(hours=2))
    refused("stale", "AuthenticationFailed", lambda: BlobClient.from_blob_url(f"{url}?{stale}").download_blob())
    secret = ClientSecretCredential(
        credentials["tenantId"],
        credentials["clientId"],
        credentials["clientSecret"],
        authority=endpoint,
        disable_instance_discovery=True,
    )
    with BlobServiceClient(f"{endpoint}/{account}", credential=secret) as signed_in:
        blob = signed_in.get_blob_client(name, "staged")
        check("bearer", blob.download_blob().readall() == want)
        delegation = signed_in.get_user_delegation_key(datetime.now(timezone.utc), until)
    sas = generate_blob_sas(
        account, name, "staged", user_delegation_key=delegation, permission=BlobSasPermissions(read=True), expiry=until
    )
    check("user delegation SAS", BlobClient.from_blob_url(f"{url}?{sas}").download_blob().readall() == want)
    nobody = BlobClient.from_blob_url(url)
    refused("nobody", "PublicAccessNotPermitted", lambda: nobody.download_blob())
    wrong = BlobServiceClient(f"{endpoint}/{account}", credential="AAAA" + key[4:])
    refused("a wrong key", "AuthenticationFailed", lambda: wrong.get_account_information())
    check("account information", service.get_account_information()["sku_name"] == "Standard_LRS")


def main():
    endpoint, account, key, path, credentials = sys.argv[1:]
    with open(credentials, encoding="utf-8") as file:
        credentials = json.load(file)
    with BlobServiceClient(f"{endpoint}/{account}", credential={"account_name": account, "account_key": key}) as service:
        container = service.create_container("sdk", metadata={"x": "y"})
        refused("twice", "ContainerAlreadyExists", lambda: service.create_container("sdk"))
        check("listed", "sdk" in [c.name for c in service.list_containers(include_metadata=True)])
        blocks(container)
        appends(container)
        pages(container, path)
        leases(container)
        lists(container)
        signatures(service, container, endpoint, credentials)
        service.delete_container("sdk")
        refused("gone", "ContainerNotFound", lambda: list(container.list_blobs()))
    print("ok")


if __name__ == "__main__":
    main()
