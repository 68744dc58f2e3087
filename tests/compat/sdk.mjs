// What the scenarios of the JavaScript SDKs have in common: their packages (of the folder NODE_HOME) and their checks.

import { createRequire } from "node:module";
import { join } from "node:path";

export const require = createRequire(join(process.env.NODE_HOME, "package.json"));

export function same(what, found, wanted) {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) {
    throw new Error(`${what}: ${JSON.stringify(found)} instead of ${JSON.stringify(wanted)}`);
  }
}

// codeOf: where the SDK's errors have Azure's code.
export async function refused(what, code, call, codeOf = (error) => error.code) {
  try {
    await call();
  } catch (error) {
    same(what, codeOf(error), code);
    return;
  }
  throw new Error(`${what}: it was done`);
}
