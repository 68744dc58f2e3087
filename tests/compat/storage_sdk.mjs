// @azure/storage-blob: a container, its page, block and append blobs, lists, a lease, a copy, signatures; then all of it goes.
//
//   node storage_sdk.mjs ENDPOINT ACCOUNT KEY FILE      (FILE is a VHD)
//
// Owner and CA come from the environment (`lazuli env`), the packages from the folder NODE_HOME. Ends with 0 only if everything was
// as Azure has it.

import { createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { refused as checked, require, same } from "./sdk.mjs";

const storage = require("@azure/storage-blob");
const { ClientSecretCredential } = require("@azure/identity");

const [endpoint, account, key, file] = process.argv.slice(2);
const env = process.env;
const url = `${endpoint}/${account}`;

const refused = (what, code, call) => checked(what, code, call, (error) => error.code ?? error.details?.errorCode);

async function collect(list) {
  const names = [];
  for await (const item of list) names.push(item.name);
  return names;
}

const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");
const sharedKey = new storage.StorageSharedKeyCredential(account, key);
const service = new storage.BlobServiceClient(url, sharedKey);
const container = service.getContainerClient("javascript");
await container.create({ metadata: { by: "javascript" } });
same("the container's metadata", (await container.getProperties()).metadata, { by: "javascript" });
await refused("a second container", "ContainerAlreadyExists", () => container.create());

const blocks = randomBytes(9 * 1024 * 1024);
const block = container.getBlockBlobClient("dir/blocks.bin");
await block.uploadData(blocks, { blockSize: 4 * 1024 * 1024, concurrency: 3, blobHTTPHeaders: { blobContentType: "application/x-test" } });
same("the blocks", digest(await block.downloadToBuffer(0, undefined, { concurrency: 2 })), digest(blocks));
same("a range", digest(await block.downloadToBuffer(1000, 5000)), digest(blocks.subarray(1000, 6000)));
same("the content type", (await block.getProperties()).contentType, "application/x-test");
await refused("only if it is new", "BlobAlreadyExists", () => block.upload("x", 1, { conditions: { ifNoneMatch: "*" } }));

const disk = readFileSync(file);
const page = container.getPageBlobClient("disk.vhd");
await page.create(disk.length);
const pieces = 4 * 1024 * 1024;
for (let at = 0; at < disk.length; at += pieces) {
  const piece = disk.subarray(at, Math.min(at + pieces, disk.length));
  if (piece.some((byte) => byte !== 0)) await page.uploadPages(piece, at, piece.length);
}
same("the pages", digest(await page.downloadToBuffer()), digest(disk));
const ranges = await page.getPageRanges(0, disk.length);
same("holes are no pages", ranges.pageRange.reduce((sum, range) => sum + range.count, 0) < disk.length, true);

const append = container.getAppendBlobClient("log.txt");
await append.create();
for (const line of ["one\n", "two\n"]) await append.appendBlock(line, line.length);
same("the lines", (await append.downloadToBuffer()).toString(), "one\ntwo\n");

same("a flat list", await collect(container.listBlobsFlat()), ["dir/blocks.bin", "disk.vhd", "log.txt"]);
same("a list by folders", await collect(container.listBlobsByHierarchy("/")), ["dir/", "disk.vhd", "log.txt"]);
const parts = [];
for await (const part of container.listBlobsFlat().byPage({ maxPageSize: 2 })) parts.push(part.segment.blobItems.length);
same("pages of two", parts, [2, 1]);

const lease = append.getBlobLeaseClient();
await lease.acquireLease(-1);
await refused("a lease keeps others out", "LeaseIdMissing", () => append.delete());
await lease.releaseLease();
const copy = container.getPageBlobClient("copy.vhd");
const poller = await copy.beginCopyFromURL(page.url);
same("the copy", (await poller.pollUntilDone()).copyStatus, "success");
const snapshot = await copy.createSnapshot();
same("the snapshot's bytes", digest(await copy.withSnapshot(snapshot.snapshot).downloadToBuffer()), digest(disk));
await refused("a blob with snapshots stays", "SnapshotsPresent", () => copy.delete());
await copy.delete({ deleteSnapshots: "include" });

const expiresOn = new Date(Date.now() + 3600_000);
const readOnly = await block.generateSasUrl({ permissions: storage.BlobSASPermissions.parse("r"), expiresOn });
const reader = new storage.BlockBlobClient(readOnly);
same("by a service SAS", digest(await reader.downloadToBuffer()), digest(blocks));
await refused("it only reads", "AuthorizationPermissionMismatch", () => reader.delete());
const wrong = new storage.BlockBlobClient(readOnly.replace(/sig=[^&]*/, "sig=AAAA"));
await refused("a wrong signature", "AuthenticationFailed", () => wrong.downloadToBuffer(0, 10));

const credential = new ClientSecretCredential(env.AZURE_TENANT_ID, env.AZURE_CLIENT_ID, env.AZURE_CLIENT_SECRET, {
  authorityHost: endpoint,
  disableInstanceDiscovery: true,
});
const signedIn = new storage.BlobServiceClient(url, credential);
same("by a token", digest(await signedIn.getContainerClient("javascript").getBlobClient("disk.vhd").downloadToBuffer()), digest(disk));
const startsOn = new Date(Date.now() - 60_000);
const delegation = await signedIn.getUserDelegationKey(startsOn, expiresOn);
const permissions = storage.ContainerSASPermissions.parse("rl");
const query = storage.generateBlobSASQueryParameters({ containerName: "javascript", permissions, startsOn, expiresOn }, delegation, account);
const delegated = new storage.ContainerClient(`${container.url}?${query}`);
same("by a user delegation SAS", (await collect(delegated.listBlobsFlat())).length, 3);

await container.delete();
same("nothing is left", await collect(service.listContainers({ prefix: "javascript" })), []);
console.log("ok");
