// An OpenID provider on a loopback address, as somebody's Keycloak or Entra would be: `oidc-provider`, with one client and whoever
// signs in by any name. Writes a token of a workload `build` to TOKEN_FILE, as GitHub or Kubernetes give them to their jobs, and prints
// its issuer when it is ready.
//
//   OPENID_HOME=FOLDER node provider.mjs REDIRECT_URI SECRET_FILE TOKEN_FILE
import { createRequire } from 'node:module';
import { generateKeyPairSync, sign } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const require = createRequire(`${process.env.OPENID_HOME}/package.json`);
const { Provider } = await import(pathToFileURL(require.resolve('oidc-provider')).href);
const [redirectUri, secretFile, tokenFile] = process.argv.slice(2);

// The port is part of the issuer's name, so it is taken first.
const server = createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;
const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const provider = new Provider(issuer, {
  jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: 'one', use: 'sig', alg: 'RS256' }] },
  clients: [{
    client_id: 'lazuli',
    client_secret: readFileSync(secretFile, 'utf8').trim(),
    redirect_uris: [redirectUri],
    response_types: ['code'],
    grant_types: ['authorization_code'],
  }],
  claims: { openid: ['sub'], profile: ['name', 'preferred_username'], email: ['email'] },
  // Claims of scopes go into the id token, as other providers' do.
  conformIdTokenClaims: false,
  pkce: { required: () => true },
  cookies: { keys: ['of a test'] },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, name: `${id} of elsewhere`, preferred_username: id, email: `${id}@elsewhere.example` }),
  }),
});
server.on('request', provider.callback());

const now = Math.floor(Date.now() / 1000);
const parts = [
  { alg: 'RS256', typ: 'JWT', kid: 'one' },
  { iss: issuer, sub: 'repo:contoso/app:build', aud: 'api://AzureADTokenExchange', iat: now, exp: now + 3600 },
].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
writeFileSync(tokenFile, `${parts}.${sign('sha256', parts, privateKey).toString('base64url')}`, { mode: 0o600 });
console.log(issuer);
