"""The small resources that requests presuppose: they only have to be there, whatever was sent to make them."""

import re

from blobs import URI, Blobs
from client import Failure

# Group and id of a resource anywhere in a text.
RESOURCE = re.compile(r"/?subscriptions/[^/\"]+/resourceGroups/([^/\"]+)(/providers/[\w.]+(/[\w.]+/[^/\"?]+)+)", re.I)
GROUP = re.compile(r"/subscriptions/[^/]+/resourceGroups/([^/?]+)", re.I)


class Fixtures:
    """Prerequisites in one resource group. Every method makes the resource if it is not there, and returns its id."""

    def __init__(self, client, group, location="westus", image=None):
        self.client = client
        self.group = group
        self.location = location
        # Id of a platform image that versions are made of, so that machines made of these boot; none: an empty disk.
        self.image = image
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

    def os_disk(self, definition):
        """What a version of this definition can be made of."""
        wanted = self.client.get(definition)["properties"]
        system, generation = wanted["osType"], wanted["hyperVGeneration"]
        if not self.image:
            return self.disk() if system == "Linux" else self.disk(f"{system}-disk".lower(), osType=system)
        return self.put(self.id(f"disks/from-image-{generation}"), {"properties": {
            "osType": system, "hyperVGeneration": generation,
            "creationData": {"createOption": "FromImage", "imageReference": {"id": self.image}}}})

    def snapshot(self, name="snapshot", source=None, group=None, **properties):
        source = source or self.disk(f"{name}-source", group)
        body = {"creationData": {"createOption": "Copy", "sourceResourceId": source}, **properties}
        return self.put(self.id(f"snapshots/{name}", group), {"properties": body})

    def gallery(self, name="gallery", group=None, **properties):
        return self.put(self.id(f"galleries/{name}", group), {"properties": properties})

    def shared_gallery(self, name, permissions, images):
        """A gallery for consumers with a version 1.0.0 of each image, shared with this subscription or with everybody. Returns the
        name by which they know it."""
        profile = {"permissions": permissions}
        if permissions == "Community":
            profile["communityGalleryInfo"] = {"publicNamePrefix": "examples", "eula": "https://example.org/eula",
                                               "publisherUri": "https://example.org", "publisherContact": "c@example.org"}
        gallery = self.gallery(name, sharingProfile=profile)
        for image in images:
            self.version("1.0.0", self.definition(image, gallery, osState="Generalized"))
        if images:
            groups = [{"type": "Subscriptions", "ids": [self.client.subscription]}]
            self.client.done("POST", f"{gallery}/share", {"operationType": "Add", "groups": groups} if permissions == "Groups"
                             else {"operationType": "EnableCommunity"})
        shown = self.client.get(gallery)["properties"]
        return (shown["sharingProfile"].get("communityGalleryInfo") or {}).get("publicNames", [shown["identifier"]["uniqueName"]])[0]

    def definition(self, name="definition", gallery=None, **properties):
        gallery = gallery or self.gallery()
        body = {
            "osType": "Linux", "osState": "Specialized", "hyperVGeneration": "V1",
            "identifier": {"publisher": "p", "offer": "o", "sku": f"{name}-sku"}, **properties,
        }
        return self.put(f"{gallery}/images/{name}", {"properties": body})

    def version(self, name="1.0.0", definition=None, storage=None, **properties):
        definition = definition or self.definition()
        storage = storage or {"osDiskImage": {"source": {"id": self.os_disk(definition)}}}
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
        if "sourceVirtualMachine" in properties:
            return self.put(self.id(f"images/{name}", group), {"properties": properties})
        storage = {"osDisk": {"osType": "Linux", "osState": "Generalized", "managedDisk": {"id": source or self.disk()}}}
        return self.put(self.id(f"images/{name}", group), {"properties": {"storageProfile": storage, **properties}})

    def platform_image(self, urn, source=None, locations=None, generation="V1", **properties):
        """An image of the publishers API; `urn` is publisher:offer:sku:version. Made of an empty disk, unless `source` is given."""
        path = f"/subscriptions/{self.client.subscription}/providers/Lazuli.Images/platformImages/{urn}"
        if path.lower() in self.made or self.exists(path):
            return path
        disk = source or self.disk(urn.replace(":", "-").replace(".", "-")[:80])
        return self.put(path, {"properties": {
            "osType": "Linux", "hyperVGeneration": generation, "storageProfile": {"osDiskImage": {"source": {"id": disk}}},
            "publishingProfile": {"targetRegions": [{"name": name} for name in locations or [self.location]]}, **properties}})

    def application_version(self, path):
        package = self.blob("https://conformancepackages.blob.core.windows.net/packages/package")
        return self.put(path, {"properties": {"publishingProfile": {
            "source": {"mediaLink": package}, "manageActions": {"install": "install", "remove": "remove"},
            "targetRegions": [{"name": self.location}]}}})

    def storage_account(self, name, group=None):
        path = self.id("storageAccounts/" + name.lower(), group).replace("/Microsoft.Compute/", "/Microsoft.Storage/")
        return self.put(path, {"kind": "StorageV2", "sku": {"name": "Standard_LRS"}})

    def blob(self, uri):
        """The blob of an address, in an account of that name wherever it is: a VHD if it is called one, else a small file."""
        account, container, name = URI.match(uri).groups()
        if uri.lower() in self.made:
            return uri
        accounts = self.client.get(f"/subscriptions/{self.client.subscription}/providers/Microsoft.Storage/storageAccounts")
        found = next((a["id"] for a in accounts["value"] if a["name"].lower() == account.lower()), None)
        found = found or self.storage_account(account)
        keys = self.client.done("POST", f"{found}/listKeys")
        blobs = Blobs(self.client, account.lower(), keys["keys"][0]["value"])
        blobs.container(container)
        if name.lower().endswith(".vhd"):
            blobs.vhd(f"{container}/{name}")
        else:
            blobs.file(f"{container}/{name}", b"a package")
        self.made[uri.lower()] = uri
        return uri

    def soft_deleted_version(self, version):
        """An image version that was deleted in a gallery with soft deletion, and can be asked back."""
        definition, name = version.rsplit("/versions/", 1)
        gallery = definition.rsplit("/images/", 1)[0]
        if not self.exists(version):
            self.made.pop(version.lower(), None)
            self.version(name, definition)
        # For this deletion only: what is deleted later is to go for good.
        for enabled in (True, False):
            self.client.done("PATCH", gallery, {"properties": {"softDeletePolicy": {"isSoftDeleteEnabled": enabled}}})
            if enabled:
                self.client.done("DELETE", version)
        return version

    def drop_group(self, name=None):
        self.client.done("DELETE", f"/subscriptions/{self.client.subscription}/resourceGroups/{name or self.group}")
        self.made.clear()


def type_of(path):
    """`microsoft.compute/galleries/images` of an id; empty if the path is not that of a resource."""
    parts = re.split("/providers/", path, flags=re.I)[-1].split("/")
    return "/".join(parts[:1] + parts[1::2]).lower() if len(parts) >= 3 and len(parts) % 2 else ""


class Prerequisites:
    """Makes resources by their ids alone, once each, their parents first. What could not be made is in `problems`.

    `facts(path)` gives properties that the resource should have, `generalized(path)` says whether a machine is to be generalized,
    `os_state` what definitions without facts are of, `image` what versions are made of.
    """

    def __init__(self, client, location, facts=lambda path: {}, generalized=lambda path: False, os_state="Specialized", image=None):
        self.client = client
        self.location = location
        self.facts = facts
        self.generalized = generalized
        self.os_state = os_state
        self.image = image
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

    def gone(self, path):
        """A resource was deleted, and what it contained."""
        self.ready = {known for known in self.ready if known != path.lower() and not known.startswith(path.lower() + "/")}

    def named_in(self, text):
        """Everything that a text refers to."""
        for found in RESOURCE.finditer(text):
            self.resource("/" + found[0].lstrip("/"))
        for found in URI.finditer(text):
            self.blob(found[0])

    def blob(self, uri):
        if uri.lower() in self.ready or not self.groups:
            return
        self.ready.add(uri.lower())
        try:
            Fixtures(self.client, self.groups[0].rsplit("/", 1)[-1], self.location).blob(uri)
        except Failure as failure:
            self.problems.append(f"prerequisite {uri}: {failure}")

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
        fixtures = Fixtures(self.client, GROUP.search(path)[1], self.location, self.image)
        name, parent = path.rsplit("/", 1)[-1], path.rsplit("/", 2)[0]
        if type_of(parent):
            self.resource(parent)
        # What is read-only may not be sent.
        facts = {k: v for k, v in self.facts(path).items() if v}
        if isinstance(facts.get("publishingProfile"), dict):
            facts["publishingProfile"].pop("publishedDate", None)
            # There are no disk encryption sets here.
            for region in facts["publishingProfile"].get("targetRegions", []):
                region.pop("encryption", None)
        source = ((facts.get("storageProfile") or {}).get("source") or {}).get("id")
        if not source or source.lower() == path.lower():
            facts.pop("storageProfile", None)

        def known(*names):
            return {n: facts[n] for n in names if n in facts}

        makers = {
            "microsoft.compute/disks": lambda: fixtures.disk(name),
            "microsoft.compute/snapshots": lambda: fixtures.snapshot(name, incremental=True),
            "microsoft.compute/diskaccesses": lambda: fixtures.put(path, {}),
            "microsoft.compute/virtualmachines": lambda: fixtures.machine(name, generalized=self.generalized(path)),
            "microsoft.compute/images": lambda: fixtures.managed_image(name, **known("sourceVirtualMachine")),
            "microsoft.compute/galleries": lambda: fixtures.gallery(name),
            "microsoft.compute/galleries/images": lambda: fixtures.definition(
                name, parent, **{"osState": self.os_state, **known("osType", "osState", "hyperVGeneration", "identifier")}),
            "microsoft.compute/galleries/images/versions": lambda: fixtures.version(
                name, parent, facts.get("storageProfile"), **known("publishingProfile")),
            "microsoft.compute/galleries/applications": lambda: fixtures.put(
                path, {"properties": {"supportedOSType": "Linux", **known("supportedOSType")}}),
            "microsoft.compute/galleries/applications/versions": lambda: fixtures.application_version(path),
            "microsoft.storage/storageaccounts": lambda: fixtures.storage_account(name),
            "microsoft.network/networkinterfaces": lambda: fixtures.interface(name.removesuffix("-nic")),
        }
        if kind in makers:
            makers[kind]()
