#!/usr/bin/env python3
"""azure-mgmt-compute: gallery, definition, version in two regions, a disk of it, a snapshot of that; then all of it goes.

    compute_sdk.py GROUP DISK_ID      (GROUP is there, in eastus; DISK_ID is a disk in eastus)

Server, owner and CA come from the environment (`lazuli env`). Ends with 0 only if every state is what was asked for.
"""

import sys

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.compute import ComputeManagementClient
from sdk import client, same


def make(compute, group, source):
    here = {"location": "eastus"}
    gallery = compute.galleries.begin_create_or_update(group, "python", {**here, "properties": {"description": "of the SDK"}}).result()
    same("the gallery's state", gallery.provisioning_state, "Succeeded")
    definition = compute.gallery_images.begin_create_or_update(group, "python", "def", {**here, "properties": {
        "osType": "Linux", "osState": "Specialized", "hyperVGeneration": "V2",
        "identifier": {"publisher": "python", "offer": "sdk", "sku": "one"}}}).result()
    same("the definition's OS state", definition.os_state, "Specialized")
    compute.gallery_image_versions.begin_create_or_update(group, "python", "def", "1.0.0", {**here, "properties": {
        "publishingProfile": {"targetRegions": [{"name": "eastus"}, {"name": "westus2", "regionalReplicaCount": 2}]},
        "storageProfile": {"osDiskImage": {"source": {"id": source}}}}}).result()
    version = compute.gallery_image_versions.get(group, "python", "def", "1.0.0", expand="ReplicationStatus")
    status = version.replication_status
    same("the replication", status.aggregated_state, "Completed")
    same("the regions", sorted(r.region for r in status.summary), ["East US", "West US 2"])
    disk = compute.disks.begin_create_or_update(group, "python-disk", {**here, "sku": {"name": "Standard_LRS"}, "properties": {
        "creationData": {"createOption": "FromImage", "galleryImageReference": {"id": version.id}}}}).result()
    same("the disk's state", disk.disk_state, "Unattached")
    snapshot = compute.snapshots.begin_create_or_update(group, "python-snapshot", {**here, "properties": {
        "incremental": True, "creationData": {"createOption": "Copy", "sourceResourceId": disk.id}}}).result()
    same("the snapshot's size", snapshot.disk_size_bytes, disk.disk_size_bytes)
    same("the snapshots", [s.name for s in compute.snapshots.list_by_resource_group(group)], ["python-snapshot"])


def remove(compute, group):
    try:
        compute.gallery_images.begin_delete(group, "python", "def").result()
    except HttpResponseError as error:
        same("the refusal to delete a parent", error.error.code, "CannotDeleteResource")
    else:
        sys.exit("a definition with versions was deleted")
    compute.snapshots.begin_delete(group, "python-snapshot").result()
    compute.disks.begin_delete(group, "python-disk").result()
    compute.gallery_image_versions.begin_delete(group, "python", "def", "1.0.0").result()
    compute.gallery_images.begin_delete(group, "python", "def").result()
    compute.galleries.begin_delete(group, "python").result()
    try:
        compute.galleries.get(group, "python")
    except ResourceNotFoundError:
        return
    sys.exit("the deleted gallery is there")


def main():
    group, source = sys.argv[1:]
    compute = client(ComputeManagementClient)
    make(compute, group, source)
    remove(compute, group)
    print("ok")


if __name__ == "__main__":
    main()
