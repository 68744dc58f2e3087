// Validates exchanges against Azure's Swagger with oav, and says which operations they cover.
//
//   node oav.mjs SPEC_DIR [--coverage] FILE.jsonl...
//
// A file has one exchange a line, as `lazuli serve --record` writes them. Only operations of the Swagger that is here are validated:
// everything else (other providers, polls of operations, sign-in) is counted. A client's api-version is taken to the nearest one that
// is here. accepted.json has the deviations that are meant, uncovered.json the operations that no exchange covers; both with reasons.
// Node runs it with NODE_PATH at the folder that has oav.

import { createRequire } from "node:module";
import { readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const require = createRequire(join(process.env.OAV_HOME ?? here, "package.json"));
const { LiveValidator } = require("oav/dist/lib/liveValidation/liveValidator");

const [spec, ...rest] = process.argv.slice(2);
const files = rest.filter((f) => f !== "--coverage");
const accepted = JSON.parse(readFileSync(join(here, "accepted.json"), "utf8"));

// The api-versions that are here, by what a path is about. Before `since` the bodies were others, whose Swagger is not here: versions
// of images had `publishingProfile.source` (Packer 1.6.6 writes it).
const areas = [
  { name: "galleries", test: /\/providers\/microsoft\.compute\/(galleries|locations\/[^/]+\/(sharedgalleries|communitygalleries))(\/|$)/i,
    file: "GalleryRP", since: "2019-07-01", old: "2024-03-03", new: "2026-03-03" },
  { name: "disks", test: /\/providers\/microsoft\.compute\/(disks|snapshots|diskaccesses)(\/|$)/i,
    file: "DiskRP", old: "2025-01-02", new: "2026-03-02" },
  { name: "images and machines", test: /\/providers\/microsoft\.compute\/(images|virtualmachines|locations\/[^/]+\/(publishers|edgezones|vmimages|virtualmachines))(\/|$)/i,
    file: "ComputeRP", old: "2025-04-01", new: "2026-04-01" },
];

function swagger(area) {
  const root = join(spec, "specification/compute/resource-manager/Microsoft.Compute", area.file, "stable", area.old);
  const file = readdirSync(root).find((f) => f.endsWith(".json"));
  return JSON.parse(readFileSync(join(root, file), "utf8"));
}

const wanted = {
  galleries: () => true,
  disks: (id) => /^(Disks|Snapshots|DiskAccesses)_/.test(id),
  "images and machines": (id) => /^(Images|VirtualMachineImages|VirtualMachineImagesEdgeZone|VirtualMachines)_/.test(id),
};

/** Operations of an area: id, method, and a pattern of the path. */
function operations(area) {
  const found = [];
  for (const [path, methods] of Object.entries(swagger(area).paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      if (!operation.operationId || !wanted[area.name](operation.operationId)) continue;
      const pattern = path.replace(/[.*+?^$|()[\]\\]/g, "\\$&").replace(/\{[^}]+\}/g, "[^/]+");
      found.push({ id: operation.operationId, method: method.toUpperCase(), pattern: new RegExp(`^${pattern}/?$`, "i"), path });
    }
  }
  // `…/softDeletedArtifactTypes/images` before `…/{name}`: the more literal path wins.
  return found.sort((a, b) => a.path.split("{").length - b.path.split("{").length);
}

const known = areas.map((area) => ({ ...area, operations: operations(area) }));
const covered = new Set();
const tally = { validated: 0, elsewhere: 0, accepted: 0 };
const deviations = new Map();

function reasonFor(deviation) {
  const rule = accepted.find((r) =>
    ["operation", "code", "path", "message"].every((key) => !r[key] || new RegExp(r[key]).test(deviation[key] ?? "")));
  if (rule) rule.used = true;
  return rule?.reason;
}

function note(deviation, url) {
  const reason = reasonFor(deviation);
  if (reason) tally.accepted += 1;
  const key = JSON.stringify(deviation);
  const entry = deviations.get(key) ?? { ...deviation, reason, count: 0, url };
  entry.count += 1;
  deviations.set(key, entry);
}

async function validate(validator, exchange) {
  const url = new URL(exchange.url);
  const path = decodeURIComponent(url.pathname).replace(/\/+/g, "/");
  const area = known.find((a) => a.test.test(path));
  const method = exchange.method.toUpperCase();
  const operation = area?.operations.find((o) => o.method === method && o.pattern.test(path));
  const before = area?.since && (url.searchParams.get("api-version") ?? area.old) < area.since;
  if (!operation || before) {
    tally.elsewhere += 1;
    return;
  }
  if (exchange.status >= 200 && exchange.status < 300) covered.add(operation.id);
  // Names of query parameters and headers are compared as they are; Azure and its clients do not.
  const query = Object.fromEntries(url.searchParams);
  const version = query["api-version"] ?? area.old;
  query["api-version"] = version > area.old ? area.new : area.old;
  const search = new URLSearchParams(query).toString();
  const headers = { "content-type": "application/json" };
  const result = await validator.validateLiveRequestResponse({
    liveRequest: { method, url: `https://management.azure.com${path}?${search}`, headers, query, body: exchange.requestBody ?? undefined },
    liveResponse: { statusCode: String(exchange.status), headers: exchange.headers, body: exchange.body ?? undefined },
  });
  tally.validated += 1;
  // What was refused was meant to be wrong: then only the answer counts.
  const sides = exchange.status < 400 ? ["request", "response"] : ["response"];
  for (const side of sides) {
    const { errors = [], runtimeException } = result[`${side}ValidationResult`];
    if (runtimeException) note({ operation: operation.id, side, code: runtimeException.code, path: "", message: runtimeException.message }, exchange.url);
    for (const error of errors) {
      const path = (error.pathsInPayload ?? []).join(" ").replace(/\/\d+/g, "/*");
      note({ operation: operation.id, side, code: error.code, path, message: error.message.slice(0, 300) }, exchange.url);
    }
  }
}

async function main() {
  const validator = new LiveValidator({
    directory: spec,
    swaggerPathsPattern: ["**/GalleryRP.json", "**/DiskRP.json", "**/ComputeRP.json"],
    excludedSwaggerPathsPattern: ["**/examples/**/*"],
    git: { shouldClone: false },
    loadValidatorInBackground: false,
    isArmCall: true,
  });
  // It tells its progress on standard output.
  const say = console.log;
  console.log = () => {};
  await validator.initialize();
  console.log = say;

  const seen = new Set();
  for (const file of files) {
    for (const line of readFileSync(file, "utf8").split("\n").filter(Boolean)) {
      const exchange = JSON.parse(line);
      // The same exchange again says nothing new.
      const key = JSON.stringify([exchange.method, exchange.url, exchange.requestBody, exchange.status, exchange.body]);
      if (seen.has(key)) continue;
      seen.add(key);
      await validate(validator, exchange);
    }
  }
  let open = 0;
  for (const d of deviations.values()) {
    if (d.reason) continue;
    open += 1;
    console.log(`  OPEN ${d.operation} ${d.side} ${d.code} ${d.path}: ${d.message}  (${d.count}x, ${d.url.replace(/^https:\/\/[^/]+/, "")})`);
  }
  const reasons = new Map();
  for (const d of deviations.values()) if (d.reason) reasons.set(d.reason, (reasons.get(d.reason) ?? 0) + d.count);
  for (const [reason, count] of reasons) console.log(`  accepted ${count}x: ${reason}`);
  if (rest.includes("--coverage")) open += coverage();
  console.log(`oav: ${tally.validated} exchanges validated, ${tally.elsewhere} without a Swagger here, ` +
    `${tally.accepted} deviations accepted with a reason, ${open} open`);
  process.exit(open ? 1 : 0);
}

/** Prints the operations covered; how many are uncovered without a reason. */
function coverage() {
  const reasons = JSON.parse(readFileSync(join(here, "uncovered.json"), "utf8"));
  let open = 0;
  for (const area of known) {
    const ids = [...new Set(area.operations.map((o) => o.id))];
    const missing = ids.filter((id) => !covered.has(id));
    console.log(`  ${area.name}: ${ids.length - missing.length} of ${ids.length} operations covered`);
    const groups = new Map();
    for (const id of missing) {
      const reason = reasons.find((r) => new RegExp(r.operation).test(id))?.reason ?? "OPEN: no reason";
      if (reason.startsWith("OPEN")) open += 1;
      groups.set(reason, [...(groups.get(reason) ?? []), id]);
    }
    for (const [reason, list] of groups) console.log(`    ${reason}: ${list.join(", ")}`);
  }
  return open;
}

await main();
