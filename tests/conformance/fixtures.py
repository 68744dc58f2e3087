"""The small resources that requests presuppose: they only have to be there, whatever was sent to make them."""

import re

from client import Failure

# Group and id of a resource anywhere in a text.
RESOURCE = re.compile(r"/?subscriptions/[^/\"]+/resourceGroups/([^/\"]+)(/providers/[\w.]+(/[\w.]+/[^/\"?]+)+)", re.I)
GROUP = re.compile(r"/subscriptions/[^/]+/resourceGroups/([^/?]+)", re.I)


class Fixtures:
    """Prerequisites in one resource group. Every method makes the resource if it is not there, and returns its id."""

    def __init__(self, client, group, location="westus"):
        self.client = client
        self.group = group
        self.location = location
        self.made = {}

    def id(self, below, group=None):
        return f"/subscriptions/{self.client.subscription}/resourceGroups/{group or self.group}/providers/Microsoft.Compute/{below}"

    def network(self, below, group=None):
        return self.id(below, group).replace("/Microsoft.Compute/", "/Microsoft.Network/")

    def put(self, path, body):
        if path.lower() not in self.made:
            self.client.done("PUT", path, {"location": self.location, **body})
            self.made[path.lower()] = path
        return path

    def exists(self, path):
        return self.client.send("GET", path).ok

    def resource_group(self, name=None, location=None):
        path = f"/subscriptions/{self.client.subscription}/resourceGroups/{name or self.group}"
        return self.put(path, {"location": location or self.location})

    def disk(self, name="disk", group=None, **properties):
        body = {"osType": "Linux", "creationData": {"createOption": "Empty"}, "diskSizeGB": 1, **properties}
        return self.put(self.id(f"disks/{name}", group), {"sku": {"name": "Standard_LRS"}, "properties": body})

    def snapshot(self, name="snapshot", source=None, group=None, **properties):
        source = source or self.disk(f"{name}-source", group)
        body = {"creationData": {"createOption": "Copy", "sourceResourceId": source}, **properties}
        return self.put(self.id(f"snapshots/{name}", group), {"properties": body})

    def gallery(self, name="gallery", group=None, **properties):
        return self.put(self.id(f"galleries/{name}", group), {"properties": properties})

    def definition(self, name="definition", gallery=None, **properties):
        gallery = gallery or self.gallery()
        body = {
            "osType": "Linux", "osState": "Specialized", "hyperVGeneration": "V1",
            "identifier": {"publisher": "p", "offer": "o", "sku": f"{name}-sku"}, **properties,
        }
        return self.put(f"{gallery}/images/{name}", {"properties": body})

    def version(self, name="1.0.0", definition=None, storage=None, **properties):
        definition = definition or self.definition()
        storage = storage or {"osDiskImage": {"source": {"id": self.disk()}}}
        return self.put(f"{definition}/versions/{name}", {"properties": {"storageProfile": storage, **properties}})

    def interface(self, name, group=None):
        net = self.put(self.network("virtualNetworks/net", group), {"properties": {
            "addressSpace": {"addressPrefixes": ["10.9.0.0/16"]},
            "subnets": [{"name": "default", "properties": {"addressPrefix": "10.9.0.0/24"}}]}})
        return self.put(self.network(f"networkInterfaces/{name}-nic", group), {"properties": {"ipConfigurations": [
            {"name": "ip", "properties": {"subnet": {"id": f"{net}/subnets/default"}}}]}})

    def machine(self, name="machine", group=None, generalized=False):
        """A machine around an empty disk, switched off."""
        path = self.id(f"virtualMachines/{name}", group)
        if path.lower() in self.made:
            return path
        disk = self.disk(f"{name}-os", group)
        self.put(path, {"properties": {
            "hardwareProfile": {"vmSize": "Standard_B1ls"},
            "storageProfile": {"osDisk": {"osType": "Linux", "createOption": "Attach", "managedDisk": {"id": disk}}},
            "networkProfile": {"networkInterfaces": [{"id": self.interface(name, group)}]}}})
        # It has no system that could be asked to end.
        self.client.done("POST", f"{path}/powerOff?skipShutdown=true")
        self.client.done("POST", f"{path}/deallocate")
        if generalized:
            self.client.done("POST", f"{path}/generalize")
        return path

    def managed_image(self, name="image", source=None, group=None, **properties):
        storage = {"osDisk": {"osType": "Linux", "osState": "Generalized", "managedDisk": {"id": source or self.disk()}}}
        return self.put(self.id(f"images/{name}", group), {"properties": {"storageProfile": storage, **properties}})

    def drop_group(self, name=None):
        self.client.done("DELETE", f"/subscriptions/{self.client.subscription}/resourceGroups/{name or self.group}")
        self.made.clear()


def type_of(path):
    """`microsoft.compute/galleries/images` of an id; empty if the path is not that of a resource."""
    parts = path.split("/providers/")[-1].split("/")
    return "/".join(parts[:1] + parts[1::2]).lower() if len(parts) >= 3 and len(parts) % 2 else ""


class Prerequisites:
    """Makes resources by their ids alone, once each, their parents first. What could not be made is in `problems`.

    `facts(path)` gives properties that the resource should have, `generalized(path)` says whether a machine is to be generalized.
    """

    def __init__(self, client, location, facts=lambda path: {}, generalized=lambda path: False):
        self.client = client
        self.location = location
        self.facts = facts
        self.generalized = generalized
        self.ready = set()
        self.groups = []
        self.problems = []

    def group(self, name, tags=None):
        if name.lower() in self.ready:
            return
        self.ready.add(name.lower())
        path = f"/subscriptions/{self.client.subscription}/resourceGroups/{name}"
        self.client.done("PUT", path, {"location": self.location, "tags": tags or {}})
        self.groups.append(path)

    def named_in(self, text):
        """Everything that a text refers to."""
        for found in RESOURCE.finditer(text):
            self.resource("/" + found[0].lstrip("/"))

    def resource(self, path):
        kind = type_of(path)
        if not kind or not GROUP.search(path) or path.lower() in self.ready:
            return
        self.ready.add(path.lower())
        self.group(GROUP.search(path)[1])
        if self.client.send("GET", path).ok:
            return
        try:
            self.make(kind, path)
        except Failure as failure:
            self.problems.append(f"prerequisite {kind} {path.rsplit('/', 1)[-1]}: {failure}")

    def make(self, kind, path):
        fixtures = Fixtures(self.client, GROUP.search(path)[1], self.location)
        name, parent = path.rsplit("/", 1)[-1], path.rsplit("/", 2)[0]
        if type_of(parent):
            self.resource(parent)
        # What is read-only may not be sent.
        facts = {k: v for k, v in self.facts(path).items() if v}
        if isinstance(facts.get("publishingProfile"), dict):
            facts["publishingProfile"].pop("publishedDate", None)
        if not ((facts.get("storageProfile") or {}).get("source") or {}).get("id"):
            facts.pop("storageProfile", None)

        def known(*names):
            return {n: facts[n] for n in names if n in facts}

        makers = {
            "microsoft.compute/disks": lambda: fixtures.disk(name),
            "microsoft.compute/snapshots": lambda: fixtures.snapshot(name, incremental=True),
            "microsoft.compute/diskaccesses": lambda: fixtures.put(path, {}),
            "microsoft.compute/virtualmachines": lambda: fixtures.machine(name, generalized=self.generalized(path)),
            "microsoft.compute/images": lambda: fixtures.managed_image(name),
            "microsoft.compute/galleries": lambda: fixtures.gallery(name),
            "microsoft.compute/galleries/images": lambda: fixtures.definition(
                name, parent, **known("osType", "osState", "hyperVGeneration", "identifier")),
            "microsoft.compute/galleries/images/versions": lambda: fixtures.version(
                name, parent, facts.get("storageProfile"), **known("publishingProfile")),
            "microsoft.compute/galleries/applications": lambda: fixtures.put(path, {"properties": {"supportedOSType": "Linux"}}),
            "microsoft.network/networkinterfaces": lambda: fixtures.interface(name.removesuffix("-nic")),
        }
        if kind in makers:
            makers[kind]()
