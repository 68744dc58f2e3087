#!/usr/bin/env python3
"""Replays recordings of real Azure against a running server, and prints where the answers differ.

    replay.py DATA_DIR LAZULI GUEST.vhd FILE.jsonl...

A recording has one exchange a line: `{"method","url","requestBody","status","headers","body"}`. Every request to Azure's management
endpoint is sent in order, with the recording's subscription replaced by the server's. Polls of an operation are sent to the URL that
this server gave for the same request, until it ends where the recording's did. What a recording presupposes is made first: resources
that it reads or refers to and never creates, blobs that it names, and the resources of a deployment's template, one by one. The
platform images that recordings use are published under their names, from a small guest that really boots (GUEST.vhd).
replay.json says what is left out (types that are not built yet) and explains differences by pattern; a difference without a reason
fails the run.
"""

import collections
import json
import pathlib
import re
import subprocess
import sys
import time
import urllib.parse
import uuid

import shape
from client import PATIENCE, Client, Failure
from fixtures import GROUP, Prerequisites, type_of

HERE = pathlib.Path(__file__).parent
POLL_URL = re.compile(r"/(capsOperations|DiskOperations|operations|operationResults|operationStatuses|asyncoperations)/([^/?]+)", re.I)
PLATFORM_IMAGE = re.compile(r"/Locations/(\w+)/Publishers/([^/\"]+)/ArtifactTypes/VMImage/Offers/([^/\"]+)/Skus/([^/\"]+)/Versions/([\d.]+)", re.I)
SCRIPT = re.compile(r"https://raw\.githubusercontent\.com/[^\"]+")
STAND_IN = "https://replayscripts.blob.core.windows.net/scripts/customizeScript.sh"
# The random end of a disk's name.
RANDOM = re.compile(r"[\w.-]+_[0-9a-f]{32}$")
# Templates list what they need in any order.
RANK = ["storageaccounts", "virtualnetworks", "networksecuritygroups", "publicipaddresses", "networkinterfaces", "disks", "virtualmachines"]


def operation(method, url):
    """`PUT Microsoft.Compute/galleries/images`, `POST Microsoft.Compute/disks/beginGetAccess`, or the host of another service."""
    parts = urllib.parse.urlsplit(url)
    if parts.netloc != "management.azure.com":
        return f"{method} {parts.netloc.split('.', 1)[-1]}"
    segments = [s for s in parts.path.split("/") if s]
    lower = [s.lower() for s in segments]
    if "providers" in lower:
        at = len(lower) - 1 - lower[::-1].index("providers")
        below = segments[at + 1:]
        return f"{method} {'/'.join(below[:1] + below[1::2])}"
    return f"{method} {'/'.join(segments[0::2])}"


def platform_images(recordings):
    """`publisher:offer:sku:version` of what recordings read or make machines from, with the regions."""
    images = collections.defaultdict(set)
    for recording in recordings:
        text = json.dumps(recording.exchanges)
        for location, *urn in PLATFORM_IMAGE.findall(text):
            images[":".join(urn)].add(location.lower())
        for exchange in recording.exchanges:
            for image in image_references(exchange["body"]):
                if image.get("exactVersion", "latest") != "latest" and image.get("publisher"):
                    urn = ":".join([image["publisher"], image["offer"], image["sku"], image["exactVersion"]])
                    images[urn].add(recording.location)
    return images


def image_references(value):
    if isinstance(value, dict):
        for name in ("imageReference", "source"):
            if isinstance(value.get(name), dict):
                yield value[name]
        for below in value.values():
            yield from image_references(below)
    elif isinstance(value, list):
        for below in value:
            yield from image_references(below)


def publish(data, lazuli, guest, images):
    """The guest as each of the images, on a disk as large as theirs: what is made of them is compared by its size, too."""
    large = pathlib.Path(data) / "guest.raw"
    subprocess.run(["qemu-img", "convert", "-f", "vpc", "-O", "raw", guest, large], check=True)
    with open(large, "r+b") as file:
        file.truncate(30 << 30)
    for urn, locations in sorted(images.items()):
        publisher, offer, sku, version = urn.split(":")
        # A template distributes to definitions of the generation of its source.
        generation = "V2" if offer == "UbuntuServer" and sku.endswith("GEN2") else "V1"
        subprocess.run([lazuli, "image", "publish", "--data-dir", data, "--publisher", publisher, "--offer", offer, "--sku", sku,
                        "--version", version, "--generation", generation, "--location", ",".join(sorted(locations)), large],
                       check=True, stdout=subprocess.DEVNULL)
    large.unlink()


class Recording:
    def __init__(self, client, rules, path):
        self.client = client
        self.rules = rules
        self.name = path.stem
        text = path.read_text(encoding="utf-8")
        ids = set(re.findall(r"https://management\.azure\.com/subscriptions/([0-9a-fA-F-]{36})", text))
        for subscription in ids:
            text = text.replace(subscription, client.subscription)
        self.exchanges = [json.loads(line) for line in text.splitlines() if line.strip()]
        self.polls = {}
        # Names with a random part: the recording's, and those that stand for them here.
        self.names = {}
        self.short = []
        self.ended = {}
        self.counts = collections.Counter()
        self.differences = []
        self.location = self.first_location()
        self.needs = Prerequisites(client, self.location, self.recorded, self.must_be_generalized)

    def use_image(self, urn):
        """What versions are made of that the recording does not make itself."""
        publisher, offer, sku, version = urn.split(":")
        self.needs.image = (f"/Subscriptions/{self.client.subscription}/Providers/Microsoft.Compute/Locations/{self.location}/Publishers/"
                            f"{publisher}/ArtifactTypes/VMImage/Offers/{offer}/Skus/{sku}/Versions/{version}")

    def first_location(self):
        for exchange in self.exchanges:
            body = exchange["body"] if isinstance(exchange["body"], dict) else {}
            if body.get("location") and "/resourcegroups/" in exchange["url"].lower():
                return body["location"]
        return "westus"

    # What must be there before a request.

    def prepare(self, exchange):
        """Makes what a successful exchange presupposes."""
        path = urllib.parse.urlsplit(exchange["url"]).path
        group = GROUP.search(path)
        if group:
            self.needs.group(group[1], self.group_tags(group[1]))
        if not 200 <= exchange["status"] < 300:
            return
        # The collection or the parent of what is written, the resource that is read or acted on.
        while path and not type_of(path):
            path = path.rpartition("/")[0]
        self.needs.resource(path.rsplit("/", 2)[0] if exchange["method"] == "PUT" else path)
        self.needs.named_in(json.dumps(exchange["requestBody"] or ""))

    def group_tags(self, name):
        for exchange in self.exchanges:
            path = exchange["url"].lower().split("?")[0]
            if path.endswith(f"/resourcegroups/{name.lower()}") and isinstance(exchange["body"], dict):
                return exchange["body"].get("tags")
        return None

    def recorded(self, path):
        """The properties that the recording shows of a resource."""
        for exchange in self.exchanges:
            if exchange["url"].lower().split("?")[0].endswith(path.lower()) and isinstance(exchange["body"], dict):
                return exchange["body"].get("properties") or {}
        return {}

    def must_be_generalized(self, path):
        """A machine that becomes an image, and that the recording does not generalize itself."""
        text = json.dumps([e["requestBody"] for e in self.exchanges if "/images/" in e["url"]]).lower()
        asked = any("/generalize" in e["url"] and path.lower() in e["url"].lower() for e in self.exchanges)
        return path.lower() in text and not asked

    def template(self, body):
        """A deployment's resources, one by one: what the rest of the recording presupposes."""
        template = ((body or {}).get("properties") or {}).get("template") or {}
        resources = template.get("resources") or []

        def rank(resource):
            last = resource["type"].rsplit("/", 1)[-1].lower()
            return RANK.index(last) if last in RANK else len(RANK)

        for resource in sorted(resources, key=rank):
            path = f"{self.needs.groups[-1]}/providers/{resource['type']}/{resource['name']}"
            if rank(resource) == len(RANK):
                continue
            kept = ("location", "tags", "properties", "sku", "kind", "zones", "identity")
            sent = {k: v for k, v in without_nulls(resource).items() if k in kept}
            if "accountType" in sent.get("properties", {}):
                # A storage account as of 2015.
                sent.update(kind="StorageV2", sku={"name": sent.pop("properties")["accountType"]})
            try:
                if resource["type"].lower().endswith("/virtualmachines"):
                    self.machine(path, sent)
                else:
                    self.client.done("PUT", path, sent)
                self.needs.ready.add(path.lower())
            except Failure as failure:
                self.needs.problems.append(f"template: {failure}")

    def machine(self, path, sent):
        """A machine as the template orders it: parameters have a value, and disks are managed, as there are no others here."""
        properties = sent["properties"]
        properties["storageProfile"]["osDisk"].pop("vhd", None)
        for name, value in properties.get("osProfile", {}).items():
            if str(value).startswith("[parameters("):
                properties["osProfile"][name] = "Replay-0-password"
        image = str(properties["storageProfile"].get("imageReference", {}).get("id"))
        if any(e["method"] == "PUT" and f"{image}/versions/".lower() in e["url"].lower() for e in self.exchanges):
            # From a guest of this recording, which nobody deprovisioned (run command is a later issue): it will not report.
            self.client.send("PUT", path, sent)
            return
        self.client.done("PUT", path, sent)

    def grant(self, exchange):
        """The role for the identity that the recording made: what its templates do needs it. With it comes what scripts in an account
        need, which are on the internet in the recording."""
        group = GROUP.search(exchange["url"])[0]
        identities = self.client.get(f"{group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities")["value"]
        scripts = "/subscriptions/x/providers/Microsoft.Authorization/roleDefinitions/2a2b9908-6ea1-4ae2-8e65-a410df84e7d1"
        for identity in identities:
            for role in (exchange["requestBody"]["properties"]["roleDefinitionId"], scripts):
                self.client.done("PUT", f"{group}/providers/Microsoft.Authorization/roleAssignments/{uuid.uuid4()}", {"properties": {
                    "roleDefinitionId": role, "principalId": identity["properties"]["principalId"], "principalType": "ServicePrincipal"}})

    # One exchange.

    def replay(self):
        last_polls = {}
        for index, exchange in enumerate(self.exchanges):
            key = self.poll_key(exchange)
            if key:
                last_polls[key] = index
        for index, exchange in enumerate(self.exchanges):
            what = operation(exchange["method"], exchange["url"])
            key = self.poll_key(exchange)
            if key and key not in self.polls:
                # Of an exchange that was left out.
                self.counts["skipped"] += 1
                continue
            reason = next((s["reason"] for s in self.rules["skip"] if re.search(s["operation"], what)), None)
            if reason and not key:
                self.counts["skipped"] += 1
                self.counts[f"skipped: {reason}"] += 1
                if what.lower() == "put microsoft.resources/deployments":
                    self.template(exchange["requestBody"])
                if what.lower() == "put microsoft.authorization/roleassignments" and exchange["status"] == 201:
                    self.grant(exchange)
                continue
            if key:
                self.counts["polls"] += 1
                if index != last_polls[key]:
                    continue
                answer = self.poll(self.polls[key], exchange)
                what = f"POLL {what.split(' ', 1)[1]}"
            else:
                self.prepare(exchange)
                answer = self.send(exchange)
                self.remember(exchange, answer)
            self.counts["compared"] += 1
            self.compare(index, what, exchange, answer)
        self.clean()

    def poll_key(self, exchange):
        match = POLL_URL.search(exchange["url"])
        if not match or exchange["method"] != "GET":
            return None
        return match[2].lower(), "monitor=true" in exchange["url"]

    def send(self, exchange):
        url = urllib.parse.urlsplit(exchange["url"])
        if url.path.lower().endswith("/begingetaccess") and (exchange["requestBody"] or {}).get("durationInSeconds", 60) < 60:
            self.short.append(url.path.rsplit("/", 1)[0])
        elif exchange["method"] == "PUT" and re.search(r"/Microsoft\.Compute/images/[^/]+$", url.path, re.I):
            # In the recording's time, an access of seconds was over when images were made of its disk.
            while self.short:
                self.client.done("POST", f"{self.short.pop()}/endGetAccess")
        path = url.path + (f"?{url.query}" if url.query else "")
        body = exchange["requestBody"]
        if SCRIPT.search(json.dumps(body)):
            # A script on the internet: a blob stands for it.
            self.needs.blob(STAND_IN)
            body = json.loads(SCRIPT.sub(STAND_IN, json.dumps(body)))
        for theirs, ours in self.names.items():
            path = path.replace(theirs, ours)
            body = json.loads(json.dumps(body).replace(theirs, ours))
        answer = self.client.send(exchange["method"], path, body)
        if "cannot be read while it is running" in answer.error()[1]:
            # The refusal counts; what follows in the recording needs what was refused.
            machine = body["properties"]["storageProfile"]["source"]["virtualMachineId"]
            self.client.done("POST", f"{machine}/deallocate")
            self.client.done(exchange["method"], path, body)
            self.needs.ready.add(url.path.lower())
        return answer

    def learn_names(self, recorded, found):
        """Which of this server's random names stands for the recording's."""
        if isinstance(recorded, dict) and isinstance(found, dict):
            for key in recorded.keys() & found.keys():
                self.learn_names(recorded[key], found[key])
        elif isinstance(recorded, list) and isinstance(found, list):
            for theirs, ours in zip(recorded, found):
                self.learn_names(theirs, ours)
        elif isinstance(recorded, str) and isinstance(found, str) and RANDOM.fullmatch(recorded) and RANDOM.fullmatch(found):
            self.names[recorded] = found

    def remember(self, exchange, answer):
        """Which of this server's operations stands for the recording's."""
        theirs, ours = exchange["headers"], answer.headers
        for name in ("azure-asyncoperation", "location"):
            match = POLL_URL.search(theirs.get(name) or "")
            if match and ours.get(name):
                self.polls[(match[2].lower(), "monitor=true" in theirs[name])] = ours[name]
        # A recording may go on without having polled: what it then reads must be there.
        polled = any(self.poll_key(e) in self.polls for e in self.exchanges if self.poll_key(e))
        if not polled and answer.ok and exchange["method"] != "GET":
            self.client.end(answer, exchange["url"])

    def poll(self, url, exchange):
        status = exchange["body"].get("status") if isinstance(exchange["body"], dict) else None
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self.client.send("GET", url)
            found = answer.body.get("status") if isinstance(answer.body, dict) else None
            running = answer.status == 202 or found == "InProgress"
            if not running or status == "InProgress" or time.monotonic() > deadline:
                return answer
            time.sleep(0.05)

    def compare(self, index, what, exchange, answer):
        found = []
        self.learn_names(exchange["body"], answer.body)
        if exchange["status"] != answer.status:
            found.append(("status", "", str(exchange["status"]), f"{answer.status} {' '.join(answer.error()[:2])}".strip()))
        else:
            found += shape.headers(exchange["headers"], answer.headers)
            recorded = exchange["body"] if exchange["body"] not in ("", None) else None
            if kinds_differ(recorded, answer.body):
                found.append(("type", "", shape.kind(recorded), shape.kind(answer.body)))
            elif recorded is not None:
                found += shape.bodies(recorded, answer.body)
        unexplained = 0
        for kind, path, want, have in found:
            reason = self.reason(what, kind, path, want, have)
            self.differences.append((self.name, index, what, kind, path, want, have, reason))
            unexplained += reason is None
        self.counts["matched" if not found else "explained" if not unexplained else "unexplained"] += 1

    def reason(self, what, kind, path, want, have):
        for rule in self.rules["differences"]:
            tests = {"operation": what, "kind": kind, "path": path, "recorded": want, "found": have, "file": self.name}
            if all(re.search(rule[name], value) for name, value in tests.items() if name in rule):
                rule["used"] = rule.get("used", 0) + 1
                return rule["reason"]
        return None

    def clean(self):
        for group in self.needs.groups:
            try:
                self.client.done("DELETE", group)
            except Failure as failure:
                self.needs.problems.append(f"clean up: {failure}")


def check_rules(rules):
    """A rule is for one difference: it names the operation and the kind, and but for the status the property."""
    for rule in rules["differences"]:
        wanted = {"operation", "kind"} | (set() if rule.get("kind") == "^status$" else {"path"})
        if not wanted <= rule.keys():
            sys.exit(f"replay.json: a rule without {', '.join(sorted(wanted - rule.keys()))}: {rule['reason']}")


def kinds_differ(recorded, found):
    return shape.kind(recorded) != shape.kind(found)


def without_nulls(value):
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_nulls(v) for v in value if v is not None]
    return value


def main():
    data, lazuli, guest, *names = sys.argv[1:]
    with open(HERE / "replay.json", encoding="utf-8") as file:
        rules = json.load(file)
    check_rules(rules)
    client = Client.of(data)
    recordings = [Recording(client, rules, pathlib.Path(name)) for name in sorted(names)]
    images = platform_images(recordings)
    everywhere = {recording.location for recording in recordings}
    first = min(images, default=None)
    if first:
        images[first] |= everywhere
    publish(data, lazuli, guest, images)
    for recording in recordings:
        if first:
            recording.use_image(first)
        recording.replay()
    print(f"{'recording':44} {'lines':>5} {'sent':>5} {'match':>5} {'expl.':>5} {'OPEN':>5} {'polls':>5} {'left':>5}")
    total = collections.Counter()
    for recording in recordings:
        c = recording.counts
        print(f"{recording.name:44} {len(recording.exchanges):5} {c['compared']:5} {c['matched']:5} {c['explained']:5} "
              f"{c['unexplained']:5} {c['polls']:5} {c['skipped']:5}")
        total.update(c)
    print(f"{'all':44} {sum(len(r.exchanges) for r in recordings):5} {total['compared']:5} {total['matched']:5} {total['explained']:5} "
          f"{total['unexplained']:5} {total['polls']:5} {total['skipped']:5}")
    for name, count in sorted(total.items()):
        if name.startswith("skipped: "):
            print(f"  left out {count:4}  {name[9:]}")
    explained, unexplained = collections.defaultdict(collections.Counter), {}
    for recording in recordings:
        for name, index, what, kind, path, want, have, reason in recording.differences:
            if reason:
                explained[reason][f"{name}: {what} {kind} {path}"] += 1
            else:
                unexplained.setdefault((what, kind, path, want, have), []).append(f"{name}:{index + 1}")
        for problem in recording.needs.problems:
            print(f"  NOTE  {recording.name}: {problem}")
    for reason, places in sorted(explained.items(), key=lambda item: -item[1].total()):
        print(f"  explained {places.total():4}  {reason}")
        for place, count in places.items():
            print(f"            {count:4}  {place.rstrip()}")
    for (what, kind, path, want, have), places in unexplained.items():
        print(f"  OPEN {what} {kind} {path}: recorded {want!r}, here {have!r}  ({places[0]}{', ...' if len(places) > 1 else ''} {len(places)}x)")
    unused = [r["reason"] for r in rules["differences"] if "used" not in r]
    for reason in unused:
        print(f"  note: no difference has this reason any more: {reason}")
    print(f"replay: {total['matched']} match, {total['explained']} differ with a reason, {total['unexplained']} differ without one")
    sys.exit(1 if unexplained else 0)


if __name__ == "__main__":
    main()
