"""Compares an answer with a recorded one: status, headers of long-running operations, and the body's shape.

A body's shape is its keys, the types of its values, and its values where they are not of the occasion (ids, times, GUIDs, counts of
bytes that depend on the image): spellings of enums, states and defaults are compared as they are.
"""

import re

GUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?")
# The random end of a disk's name.
RANDOM = re.compile(r"_[0-9a-f]{32}\b")
OPERATION = re.compile(r"/providers/([^/]+)/locations/[^/]+/([^/?]+)/[^/?]+", re.I)
# Maps whose keys are the user's.
FREE = {"tags"}
# Values of the occasion.
VOLATILE = {"id", "uniqueId", "vmId", "uniqueName", "etag", "startTime", "endTime", "principalId", "clientId", "tenantId", "resourceGuid",
            "macAddress", "internalDomainNameSuffix"}


def plain(text):
    """A string without what differs from run to run."""
    text = RANDOM.sub("_<random>", TIME.sub("<time>", GUID.sub("<guid>", text)))
    if re.match(r"https?://", text):
        return "<url>"
    if text.lower().startswith("/subscriptions/"):
        return "<id>"
    return text


def kind(value):
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return {str: "string", dict: "object", list: "array", type(None): "null"}[type(value)]


def operation_of(url):
    """Namespace and segment of an operation's URL."""
    match = OPERATION.search(url or "")
    return f"{match[1]}/{match[2]}" if match else ("other" if url else "none")


def headers(recorded, found):
    for name in ("azure-asyncoperation", "location"):
        want, have = recorded.get(name), found.get(name)
        if operation_of(want) != operation_of(have):
            yield "header", name, operation_of(want), operation_of(have)
        elif want and ("monitor=true" in want) != ("monitor=true" in have):
            yield "header", name, "monitor=true" if "monitor=true" in want else "status", "other"
    for name in ("retry-after", "etag"):
        if recorded.get(name) and not found.get(name):
            yield "header", name, "present", "none"


def bodies(recorded, found, path=""):
    """Differences as (kind, path, recorded, found)."""
    if kind(recorded) != kind(found):
        yield "type", path, kind(recorded), kind(found)
        return
    if isinstance(recorded, dict):
        if path.rsplit(".", 1)[-1] in FREE:
            return
        for key in recorded:
            below = f"{path}.{key}" if path else key
            if key not in found:
                close = [k for k in found if k.lower() == key.lower()]
                yield ("spelling", below, key, close[0]) if close else ("missing", below, brief(recorded[key]), "")
            else:
                yield from bodies(recorded[key], found[key], below)
        lower = {k.lower() for k in recorded}
        for key in found:
            if key.lower() not in lower:
                yield "extra", f"{path}.{key}" if path else key, "", brief(found[key])
    elif isinstance(recorded, list):
        yield from lists(recorded, found, path)
    elif isinstance(recorded, str):
        key = path.rsplit(".", 1)[-1]
        if key not in VOLATILE and plain(recorded) != plain(found):
            yield "value", path, recorded, found
    elif recorded != found:
        yield "value", path, str(recorded), str(found)


def lists(recorded, found, path):
    """Items that belong together are compared: by name where both lists have things of the same names, else by their places."""
    want, have = named(recorded), named(found)
    common = want.keys() & have.keys()
    if not common:
        if len(recorded) != len(found):
            yield "length", path, str(len(recorded)), str(len(found))
        for one, other in zip(recorded, found):
            yield from bodies(one, other, f"{path}[]")
        return
    for name, item in want.items():
        if name in common:
            yield from bodies(item, have[name], f"{path}[]")
        else:
            yield "missing", f"{path}[]", name, ""
    for name in have:
        if name not in common:
            yield "extra", f"{path}[]", "", name


def named(items):
    return {str(i["name"]).lower(): i for i in items if isinstance(i, dict) and i.get("name")}


def brief(value):
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
