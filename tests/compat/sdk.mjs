// What the scenarios of the JavaScript SDKs have in common: their packages (of the folder NODE_HOME),
// a client of the server that the environment names, and their checks.

import { createRequire } from "node:module";
import { join } from "node:path";

export const require = createRequire(join(process.env.NODE_HOME, "package.json"));

const { ClientSecretCredential } = require("@azure/identity");

export function client(Client) {
  const env = process.env;
  const endpoint = env.LAZULI_ENDPOINT;
  const credential = new ClientSecretCredential(env.AZURE_TENANT_ID, env.AZURE_CLIENT_ID, env.AZURE_CLIENT_SECRET, {
    authorityHost: endpoint,
    disableInstanceDiscovery: true,
  });
  return new Client(credential, env.AZURE_SUBSCRIPTION_ID, { endpoint, credentials: { scopes: [`${endpoint}/.default`] } });
}

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
