#!/usr/bin/env python3
"""The catalogue of errors: sends every row of errors.json and compares status, code, message and target.

    errors.py DATA_DIR [WORD]     (with a WORD: only rows whose `when` has it)
"""

import json
import pathlib
import re
import sys

from client import Client, Failure
from fixtures import Fixtures

HERE = pathlib.Path(__file__).parent


def fixture(client):
    """The names that rows may use."""
    fixtures = Fixtures(client, "errors")
    names = {
        "subscription": client.subscription,
        "group": fixtures.group,
        "compute": fixtures.id("").rstrip("/"),
        "elsewhere": fixtures.id("", "errors-other").rstrip("/"),
        "storage": fixtures.id("").replace("Microsoft.Compute/", "Microsoft.Storage/storageAccounts"),
    }
    fixtures.resource_group()
    fixtures.resource_group("errors-other")
    years = {"endOfLifeDate": "2099-01-01T00:00:00Z", "replicaCount": 1}

    def eastern():
        path = fixtures.id("disks/eastern")
        return fixtures.put(path, {"location": "eastus", "properties": {
            "osType": "Linux", "diskSizeGB": 1, "creationData": {"createOption": "Empty"}}})

    def uploading():
        path = fixtures.disk("uploading", diskSizeGB=None, creationData={"createOption": "Upload", "uploadSizeBytes": 20972032})
        client.done("POST", f"{path}/beginGetAccess", {"access": "Write", "durationInSeconds": 600})
        return path

    def running():
        path = fixtures.machine("running")
        client.done("POST", f"{path}/start")
        return path

    def exported():
        path = fixtures.disk("exported")
        client.done("POST", f"{path}/beginGetAccess", {"access": "Read", "durationInSeconds": 3600})
        return path

    generalized = {"osState": "Generalized"}
    makers = {
        "gallery": fixtures.gallery,
        "definition": lambda: fixtures.definition(**generalized, eula="first", privacyStatementUri="https://p.example",
                                                  endOfLifeDate="2098-01-01T00:00:00Z"),
        "special": lambda: fixtures.definition("special"),
        "empty": lambda: fixtures.definition("empty"),
        "disk": fixtures.disk,
        "disk2": lambda: fixtures.disk("disk2", diskSizeGB=2),
        "denied": lambda: fixtures.disk("denied", networkAccessPolicy="DenyAll"),
        "windows": lambda: fixtures.disk("windows", osType="Windows"),
        "gen2": lambda: fixtures.disk("gen2", hyperVGeneration="V2"),
        "large": lambda: fixtures.disk("large", diskSizeGB=2520),
        "eastern": eastern,
        "uploading": uploading,
        "exported": exported,
        "planned": lambda: fixtures.disk("planned", purchasePlan={"name": "n", "publisher": "p", "product": "q"}),
        "sold": lambda: fixtures.platform_image("Seller:offer:sku:1.0.0", plan={"name": "n", "publisher": "Seller", "product": "q"}),
        "snapshot": lambda: fixtures.snapshot(source=fixtures.disk()),
        "version": lambda: fixtures.version(definition=fixtures.definition("special")),
        "wide": lambda: fixtures.version("4.0.0", fixtures.definition("special"), publishingProfile={
            "targetRegions": [{"name": "westus"}, {"name": "eastus"}]}),
        "general": lambda: fixtures.version("3.0.0", fixtures.definition(**generalized)),
        "blocked": lambda: fixtures.version("9.0.0", fixtures.definition("special"), publishingProfile=years,
                                            safetyProfile={"blockDeletionBeforeEndOfLife": True}),
        "image": lambda: fixtures.managed_image(source=fixtures.disk()),
        "interface": lambda: fixtures.interface("spare"),
        "machine": fixtures.machine,
        "generalized": lambda: fixtures.machine("generalized", generalized=True),
        "running": running,
    }
    failures = {}
    for name, make in makers.items():
        try:
            names[name] = make()
        except Failure as failure:
            failures[name] = str(failure)
    names["attached"] = fixtures.id("disks/machine-os")
    names["busy"] = fixtures.id("disks/running-os")
    return names, failures


def filled(value, names):
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda m: names.get(m[1], m[0]), value)
    if isinstance(value, list):
        return [filled(v, names) for v in value]
    if isinstance(value, dict):
        return {k: filled(v, names) for k, v in value.items()}
    return value


def matches(expected, found):
    if expected is None:
        return True
    if isinstance(expected, str) and len(expected) > 1 and expected[0] == "/" and expected.rstrip("i")[-1] == "/":
        return re.search(expected[1:].rstrip("i")[:-1], str(found), re.I if expected.endswith("i") else 0) is not None
    return str(expected) == str(found)


def check(client, row, names):
    """What is wrong with the answer to a row; empty if nothing is."""
    method, path, *rest = filled(row["send"], names)
    body = rest[0] if rest else None
    if isinstance(body, dict) and method == "PUT":
        body = {"location": "westus", **body}
        body = {k: v for k, v in body.items() if v is not None}
    if isinstance(body, str):
        body = body.encode()
    answer = client.send(method, path, body, rest[1] if len(rest) > 1 else None)
    if row.get("ends") and answer.ok:
        answer = client.end(answer, path)
    elif answer.ok:
        # Nothing of it may stay in the way of the next row.
        try:
            client.end(answer, path)
        except Failure:
            pass
    found = [answer.status, *answer.error()]
    expected = filled(row["error"], names)
    if answer.ok and not row.get("ends"):
        return f"accepted with {answer.status}, expected {expected[:3]}"
    wrong = [f"{what}: {f!r}, expected {e!r}" for what, e, f in zip(["status", "code", "message", "target"], expected, found)
             if not matches(e, f)]
    return "; ".join(wrong)


def main():
    client = Client.of(sys.argv[1])
    word = sys.argv[2] if len(sys.argv) > 2 else ""
    with open(HERE / "errors.json", encoding="utf-8") as file:
        table = json.load(file)
    names, missing = fixture(client)
    counts = {"match": 0, "open": 0, "fail": 0}
    for row in table["rows"]:
        if word not in row["when"]:
            continue
        lacking = [n for n in re.findall(r"\{(\w+)\}", json.dumps([row["send"], row["error"], row.get("needs")])) if n in missing]
        wrong = f"no fixture {lacking[0]}: {missing[lacking[0]]}" if lacking else check(client, row, names)
        outcome = "match" if not wrong else "open" if "open" in row else "fail"
        counts[outcome] += 1
        if outcome == "match" and "open" in row:
            print(f"  holds now, drop its `open`: {row['when']}")
        elif wrong:
            print(f"  {outcome.upper():5} {row['when']}\n        {wrong}" + (f"\n        {row['open']}" if "open" in row else ""))
    print(f"errors: {counts['match']} match, {counts['open']} open with a reason, {counts['fail']} differ; "
          f"{len(table['later'])} groups of entries need later issues")
    sys.exit(1 if counts["fail"] else 0)


if __name__ == "__main__":
    main()
