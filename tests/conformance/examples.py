#!/usr/bin/env python3
"""Sends every example of the Swagger as a request, and compares the answer's status with the example's.

    examples.py DATA_DIR SPEC_DIR [WORD]     (with a WORD: only examples whose name has it)

Ids and regions of an example are taken to this server's (examples.json: `replace`), properties that the rest would fail with are left
out (`without`), and what it refers to is made first. Resources
that an example creates are deleted before it, so that it creates them. An example matches when its first answer has one of its
statuses and the operation that it starts succeeds; the bodies are checked by oav (part `traffic`). Examples that do not match need a
reason in examples.json.
"""

import collections
import json
import pathlib
import re
import sys
import urllib.parse

from client import Client, Failure
from fixtures import Fixtures, Prerequisites, type_of

HERE = pathlib.Path(__file__).parent
SPEC = "specification/compute/resource-manager/Microsoft.Compute"
AREAS = [
    ("GalleryRP/stable/2024-03-03", r"^(Galler|Shared|Community|SoftDeleted)"),
    ("DiskRP/stable/2025-01-02", r"^(Disks|Snapshots|DiskAccesses)_"),
    ("ComputeRP/stable/2025-04-01", r"^(Images|VirtualMachineImages|VirtualMachineImagesEdgeZone|VirtualMachines)_"),
]
# Where everything is: West US, where most examples are, has no availability zones, which some of them ask for.
HOME = "westus2"
# Creating first, so that there is something to read; deleting last.
ORDER = ["put", "get", "patch", "post", "delete"]


def examples(spec):
    """(operation id, name, method, path template, parameters of the operation, example)"""
    found = []
    for area, pattern in AREAS:
        folder = pathlib.Path(spec) / SPEC / area
        swagger = json.loads(next(folder.glob("*.json")).read_text(encoding="utf-8"))
        for path, methods in swagger["paths"].items():
            for method, operation in methods.items():
                if method not in ORDER or not re.search(pattern, operation["operationId"]):
                    continue
                parameters = [resolved(swagger, p) for p in operation.get("parameters", [])]
                for reference in (operation.get("x-ms-examples") or {}).values():
                    file = folder / reference["$ref"]
                    example = json.loads(file.read_text(encoding="utf-8"))
                    found.append((operation["operationId"], file.stem, method, path, parameters, example))
    return sorted(found, key=lambda e: (e[0].split("_")[0], ORDER.index(e[2])))


def resolved(swagger, parameter):
    """A parameter that stands in this file; those of other files are the common ones of the path and the query."""
    reference = parameter.get("$ref", "")
    if reference.startswith("#/parameters/"):
        return swagger["parameters"][reference.rsplit("/", 1)[-1]]
    return parameter


class Run:
    def __init__(self, client, rules):
        self.client = client
        self.rules = rules
        self.sent = {}
        self.operation = ""
        self.shared = Fixtures(client, "examples", HOME)
        # Generalized: what versions and images are made of in the examples.
        self.needs = Prerequisites(client, HOME, lambda path: self.sent, self.is_source, "Generalized")

    def is_source(self, _path):
        """Whether a machine is only there to be made an image of."""
        return not self.operation.startswith("VirtualMachines_")

    def adapted(self, value, without=()):
        """The example's value with this server's subscription, group and regions."""
        if isinstance(value, dict):
            return {k: self.adapted(v, without) for k, v in value.items() if k not in without}
        if isinstance(value, list):
            return [self.adapted(v, without) for v in value]
        if isinstance(value, str):
            for old, new in self.rules["replace"]:
                value = re.sub(old, new.replace("{subscription}", self.client.subscription), value)
        return value

    def request(self, operation, name, method, path, parameters, example):
        without = [name for pattern, name in self.rules["without"] if re.search(pattern, operation)]
        given = {k.lower(): self.adapted(v, without) for k, v in example["parameters"].items()}
        given["subscriptionid"] = self.client.subscription
        for rule in self.rules["parameters"]:
            if re.search(rule["example"], f"{operation} {name}"):
                given.update({k.lower(): v for k, v in rule["set"].items() if k.lower() in given})
        given.setdefault("resourcegroupname", "examples")
        body, query = None, {"api-version": example["parameters"]["api-version"]}
        named = {p.get("name", ""): p for p in parameters}
        for key, parameter in named.items():
            if parameter.get("in") == "body":
                body = given.get(key.lower())
            elif parameter.get("in") == "query" and key != "api-version" and key.lower() in given:
                query[key] = str(given[key.lower()])
        # A body that the example calls by another name than the Swagger.
        if body is None and method in ("put", "patch", "post"):
            body = next((v for v in given.values() if isinstance(v, dict)), None)
        path = re.sub(r"\{(\w+)\}", lambda m: urllib.parse.quote(str(given.get(m[1].lower(), m[1]))), path)
        return path, f"{path}?{urllib.parse.urlencode(query)}", body

    def send(self, operation, name, method, path, parameters, example):
        """What is wrong with the answer; empty if nothing is."""
        self.operation = operation
        path, url, body = self.with_shared(f"{operation} {name}", *self.request(operation, name, method, path, parameters, example))
        if "/resourceGroups/" in path:
            self.needs.group(path.split("/resourceGroups/")[1].split("/")[0])
        # What is updated should have been made like this.
        self.sent = (body or {}).get("properties") or {}
        prepared = self.made_before(f"{operation} {name}", path)
        if body is not None:
            self.needs.named_in(json.dumps(body))
        if method == "put":
            self.forget(path)
            self.needs.resource(path.rsplit("/", 2)[0])
        else:
            target = path
            while target and not type_of(target):
                target = target.rpartition("/")[0]
            self.needs.ready.discard(target.lower())
            if not prepared:
                self.needs.resource(target)
        for disk in (body or {}).get("dataDisksToDetach", []):
            if not self.client.get(disk["diskId"]).get("managedBy"):
                self.client.done("POST", path, {"dataDisksToAttach": [{"diskId": disk["diskId"]}]})
        answer = self.client.send(method.upper(), url, body)
        statuses = list(example["responses"])
        if str(answer.status) not in statuses:
            return f"{answer.status} instead of {' or '.join(statuses)}: {': '.join(answer.error()[:2])}"
        last = self.client.end(answer, path)
        if method == "delete":
            self.needs.gone(path)
        if isinstance(last.body, dict) and last.body.get("status") in ("Failed", "Canceled"):
            return f"the operation ends with {': '.join(last.error()[:2])}"
        return ""

    def with_shared(self, what, path, url, body):
        """The request with the names of a shared gallery that is there, if examples.json says that the example needs one."""
        for rule in self.rules["shared"]:
            if not re.search(rule["example"], what):
                continue
            fixtures = self.shared
            fixtures.resource_group()
            # Each example of an action changes its gallery: it gets one of its own.
            own = re.sub(r"\W", "", what.split()[-1]) if rule.get("anew") else "shared" + rule["permissions"]
            names = {"gallery": own, "public": fixtures.shared_gallery(own, rule["permissions"], rule.get("images", []))}
            for word, replacement in rule["names"].items():
                value = names.get(replacement, replacement)
                path, url = re.sub(word, value, path), re.sub(word, value, url)
                body = json.loads(re.sub(word, value, json.dumps(body)))
        return path, url, body

    def made_before(self, what, path):
        """What examples.json says that an example presupposes, beyond what its request names. Whether its own resource is ready."""
        prepared = False
        for rule in self.rules["before"]:
            if not re.search(rule["example"], what):
                continue
            fixtures = Fixtures(self.client, "examples", HOME)
            for name, generation in rule.get("platformImages", {}).items():
                fixtures.platform_image(name, locations=[HOME, "northcentralus"], generation=generation)
            for below in rule.get("anew", []):
                # Another example made it otherwise: it is made again as this one has it.
                self.forget(fixtures.id(below))
            for name, body in rule.get("disks", {}).items():
                self.forget(fixtures.id(f"disks/{name}"))
                fixtures.put(fixtures.id(f"disks/{name}"), body)
                prepared = True
            if "softDeleted" in rule:
                version = re.sub(r"/softDeletedArtifactTypes/.*/([^/]+)/versions$", r"/images/\1/versions/1.0.0", path, flags=re.I)
                definition = version.rsplit("/", 2)[0]
                self.needs.ready.discard(definition.lower())
                self.needs.resource(definition)
                fixtures.soft_deleted_version(version)
                prepared = True
        return prepared

    def forget(self, path):
        """Deletes what an earlier example made under the name of this one."""
        answer = self.client.send("DELETE", path)
        if answer.ok:
            self.client.end(answer, path)
        self.needs.gone(path)


def main():
    client = Client.of(sys.argv[1])
    with open(HERE / "examples.json", encoding="utf-8") as file:
        rules = json.load(file)
    word = sys.argv[3] if len(sys.argv) > 3 else ""
    run = Run(client, rules)
    table, lines, used = collections.defaultdict(collections.Counter), [], set()
    left_out = collections.Counter()
    for operation, name, method, path, parameters, example in examples(sys.argv[2]):
        if word not in f"{operation} {name}":
            continue
        reason = next((rule["reason"] for rule in rules["left_out"] if re.search(rule["example"], f"{operation} {name}")), None)
        if reason:
            left_out[reason] += 1
            continue
        try:
            wrong = run.send(operation, name, method, path, parameters, example)
        except Failure as failure:
            wrong = str(failure)
        reason = ""
        if wrong:
            for index, rule in enumerate(rules["differences"]):
                if re.search(rule["example"], f"{operation} {name}") and re.search(rule.get("found", ""), wrong):
                    reason = rule["reason"]
                    used.add(index)
                    break
        outcome = "match" if not wrong else "reason" if reason else "OPEN"
        table[operation.split("_")[0]][outcome] += 1
        if wrong:
            lines.append((reason, f"{operation} {name}: {wrong[:400]}"))
    for area, counts in table.items():
        print(f"  {area:45} {counts['match']:3} match {counts['reason']:3} with a reason {counts['OPEN']:3} open")
    for reason, number in left_out.items():
        print(f"  left out {number}: {reason}")
    for reason in sorted({r for r, _ in lines if r}):
        print(f"  with a reason: {reason}")
        for line in [text for r, text in lines if r == reason]:
            print(f"      {line[:160]}")
    for reason, line in lines:
        if not reason:
            print(f"  OPEN {line}")
    for problem in run.needs.problems:
        print(f"  NOTE {problem[:300]}")
    for index, rule in enumerate(rules["differences"]):
        if index not in used and not word:
            print(f"  note: no example has this reason any more: {rule['reason']} ({rule['example']})")
    count = collections.Counter()
    for counts in table.values():
        count.update(counts)
    print(f"examples: {count['match']} match, {count['reason']} differ with a reason, {count['OPEN']} differ without one")
    sys.exit(1 if count["OPEN"] else 0)


if __name__ == "__main__":
    main()
