// @azure/arm-compute: gallery, definition, version in two regions, a disk of it, a snapshot of that; then all of it goes.
//
//   node compute_sdk.mjs GROUP DISK_ID      (GROUP is there, in eastus; DISK_ID is a disk in eastus)
//
// Server, owner and CA come from the environment (`lazuli env`), the packages from the folder NODE_HOME. Ends with 0 only if every
// state is what was asked for.

import { client, refused, require, same } from "./sdk.mjs";

const { ComputeManagementClient } = require("@azure/arm-compute");

const [group, source] = process.argv.slice(2);
const location = "eastus";

const compute = client(ComputeManagementClient);

const gallery = await compute.galleries.createOrUpdate(group, "javascript", { location, description: "of the SDK" });
same("the gallery's state", gallery.provisioningState, "Succeeded");
const definition = await compute.galleryImages.createOrUpdate(group, "javascript", "def", {
  location, osType: "Linux", osState: "Specialized", hyperVGeneration: "V2",
  identifier: { publisher: "javascript", offer: "sdk", sku: "one" },
});
same("the definition's OS state", definition.osState, "Specialized");
await compute.galleryImageVersions.createOrUpdate(group, "javascript", "def", "1.0.0", {
  location,
  publishingProfile: { targetRegions: [{ name: "eastus" }, { name: "westus2", regionalReplicaCount: 2 }] },
  storageProfile: { osDiskImage: { source: { id: source } } },
});
const version = await compute.galleryImageVersions.get(group, "javascript", "def", "1.0.0", { expand: "ReplicationStatus" });
same("the replication", version.replicationStatus.aggregatedState, "Completed");
same("the regions", version.replicationStatus.summary.map((r) => r.region).sort(), ["East US", "West US 2"]);
const disk = await compute.disks.createOrUpdate(group, "javascript-disk", {
  location, sku: { name: "Standard_LRS" },
  creationData: { createOption: "FromImage", galleryImageReference: { id: version.id } },
});
same("the disk's state", disk.diskState, "Unattached");
const snapshot = await compute.snapshots.createOrUpdate(group, "javascript-snapshot", {
  location, incremental: true, creationData: { createOption: "Copy", sourceResourceId: disk.id },
});
same("the snapshot's size", snapshot.diskSizeBytes, disk.diskSizeBytes);
const names = [];
for await (const item of compute.snapshots.listByResourceGroup(group)) names.push(item.name);
same("the snapshots", names, ["javascript-snapshot"]);

await refused("the refusal to delete a parent", "CannotDeleteResource", () => compute.galleryImages.delete(group, "javascript", "def"));
await compute.snapshots.delete(group, "javascript-snapshot");
await compute.disks.delete(group, "javascript-disk");
await compute.galleryImageVersions.delete(group, "javascript", "def", "1.0.0");
await compute.galleryImages.delete(group, "javascript", "def");
await compute.galleries.delete(group, "javascript");
await refused("the deleted gallery", "ResourceNotFound", () => compute.galleries.get(group, "javascript"));
console.log("ok");
