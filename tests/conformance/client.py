"""A signed-in client of a running server. Standard library only.

`Client.send` sends one request and gives the answer back as it came; `Client.done` follows a long-running operation to its end.
"""

import http.client
import json
import ssl
import time
import urllib.parse

# What a fixture is made with, and what an answer's poll uses.
API = {
    "Microsoft.Resources": "2022-09-01",
    "Microsoft.Network": "2022-01-01",
    "Microsoft.Storage": "2023-05-01",
    "Microsoft.Compute/galleries": "2024-03-03",
    "Microsoft.Compute/disks": "2025-01-02",
    "Microsoft.Compute/snapshots": "2025-01-02",
    "Microsoft.Compute/diskAccesses": "2025-01-02",
    "Microsoft.Compute": "2024-07-01",
}
# A machine that boots under emulation beside others takes minutes.
PATIENCE = 300
# Between polls. Clients wait for Retry-After; tests are in more of a hurry.
POLL = 0.05


class Answer:
    """One answer: `status`, `headers` (names in lower case), `body` (None where there is none)."""

    def __init__(self, status, headers, raw):
        self.status = status
        self.headers = headers
        self.raw = raw
        try:
            self.body = json.loads(raw) if raw else None
        except ValueError:
            self.body = raw.decode(errors="replace")

    @property
    def ok(self):
        return 200 <= self.status < 300

    def error(self):
        """Code, message and target of an error; empty strings where they are missing."""
        body = self.body if isinstance(self.body, dict) else {}
        error = body.get("error") or {}
        return error.get("code") or "", error.get("message") or "", error.get("target") or ""

    def __str__(self):
        return f"{self.status} {self.raw.decode(errors='replace')[:500]}"


class Failure(Exception):
    """A prerequisite that could not be made, or an operation that failed."""


class Client:
    def __init__(self, credentials):
        self.base = credentials["armEndpoint"]
        self.subscription = credentials["subscriptionId"]
        self.tenant = credentials["tenantId"]
        self.ssl = ssl.create_default_context(cafile=credentials["caFile"])
        self.host = urllib.parse.urlsplit(self.base).netloc
        self.connection = None
        form = {
            "grant_type": "client_credentials",
            "client_id": credentials["clientId"],
            "client_secret": credentials["clientSecret"],
            "scope": "https://management.azure.com//.default",
        }
        answer = self.raw("POST", f"{self.base}/{self.tenant}/oauth2/v2.0/token", urllib.parse.urlencode(form).encode(),
                          {"content-type": "application/x-www-form-urlencoded"})
        if not answer.ok:
            raise Failure(f"sign-in: {answer}")
        self.token = answer.body["access_token"]

    @staticmethod
    def of(data_dir):
        with open(f"{data_dir}/credentials.json", encoding="utf-8") as file:
            return Client(json.load(file))

    def raw(self, method, url, body=None, headers=None):
        """One request as it is, over a connection that is kept."""
        parts = urllib.parse.urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        for last in (False, True):
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPSConnection(self.host, context=self.ssl, timeout=120)
                self.connection.request(method, target, body, headers or {})
                response = self.connection.getresponse()
                return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
            except (http.client.HTTPException, OSError):
                # A kept connection that the server closed meanwhile.
                self.connection = None
                if last:
                    raise
        return None

    def send(self, method, path, body=None, headers=None):
        """One authenticated request; `path` may be a whole URL. A path without an api-version gets one."""
        url = path if path.startswith("https://") else self.base + path
        if "api-version=" not in url:
            url += ("&" if "?" in url else "?") + "api-version=" + version_for(url)
        headers = {"authorization": f"Bearer {self.token}", **(headers or {})}
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers.setdefault("content-type", "application/json")
        return self.raw(method, url.replace(" ", "%20"), data, headers)

    def end(self, answer, path):
        """Follows an accepted request; the last answer, whose body says how it ended."""
        deadline = time.monotonic() + PATIENCE
        status = answer.headers.get("azure-asyncoperation")
        result = answer.headers.get("location")
        while answer.ok:
            if time.monotonic() > deadline:
                raise Failure(f"{path} does not end: {answer}")
            if status:
                answer = self.send("GET", status)
                if isinstance(answer.body, dict) and answer.body.get("status") in ("Succeeded", "Failed", "Canceled"):
                    return answer
            elif result:
                answer = self.send("GET", result)
                if answer.status != 202:
                    return answer
            else:
                return answer
            time.sleep(POLL)
        return answer

    def done(self, method, path, body=None):
        """One request and its operation to the end; what the operation resulted in. Raises `Failure`."""
        first = self.send(method, path, body)
        if not first.ok:
            raise Failure(f"{method} {path}: {first}")
        last = self.end(first, path)
        failed = isinstance(last.body, dict) and last.body.get("status") in ("Failed", "Canceled")
        if not last.ok or failed:
            raise Failure(f"{method} {path}: {last}")
        result = first.headers.get("location")
        if method == "POST" and result and "azure-asyncoperation" in first.headers:
            last = self.send("GET", result)
        return last.body

    def get(self, path):
        answer = self.send("GET", path)
        if not answer.ok:
            raise Failure(f"GET {path}: {answer}")
        return answer.body


def version_for(url):
    path = urllib.parse.urlsplit(url).path.lower()
    best = ""
    for kind in API:
        if f"/providers/{kind}".lower() in path and len(kind) > len(best):
            best = kind
    return API[best or "Microsoft.Resources"]
