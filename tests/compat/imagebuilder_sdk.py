#!/usr/bin/env python3
"""azure-mgmt-imagebuilder: a template is created, shown, listed, tagged, triggered, run, run again and cancelled, deleted.

    imagebuilder_sdk.py GROUP IDENTITY_ID SOURCE     (SOURCE: an image version's id, of generalized tiny guests, ending in /latest)

Server, owner and CA come from the environment (`lazuli env`). Ends with 0 only if every state is what was asked for.
"""

import os
import sys
import time

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.imagebuilder import ImageBuilderClient
from azure.mgmt.imagebuilder import models
from sdk import client, same

TEMPLATE = "python"
# The tiny guest has neither of the agents that generalize Linux.
SCRIPT = ["echo python | sudo tee /var/lib/built-by", "echo deprovision > /tmp/DeprovisioningScript.sh"]


def create(client, group, identity, source):
    templates = client.virtual_machine_image_templates
    image = f"/subscriptions/{os.environ['AZURE_SUBSCRIPTION_ID']}/resourceGroups/{group}/providers/Microsoft.Compute/images/python"
    template = models.ImageTemplate(
        location="eastus",
        identity=models.ImageTemplateIdentity(type="UserAssigned", user_assigned_identities={identity: models.UserAssignedIdentity()}),
        properties=models.ImageTemplateProperties(
            source=models.ImageTemplateSharedImageVersionSource(image_version_id=source),
            customize=[models.ImageTemplateShellCustomizer(name="mark", inline=SCRIPT)],
            distribute=[models.ImageTemplateManagedImageDistributor(
                run_output_name="image", image_id=image, location="eastus", artifact_tags={"by": "python"})],
            vm_profile=models.ImageTemplateVmProfile(vm_size="Standard_B1ls"),
            managed_resource_tags={"cost": "7"}))
    made = templates.begin_create_or_update(group, TEMPLATE, template).result()
    same("the template's state", made.properties.provisioning_state, "Succeeded")
    shown = templates.get(group, TEMPLATE)
    same("its step", (shown.properties.customize[0].type, shown.properties.customize[0].name), ("Shell", "mark"))
    same("its source", shown.properties.source.exact_version.rsplit("/", 1)[0], source.rsplit("/", 1)[0])
    for listed in templates.list_by_resource_group(group), templates.list():
        same("how often it is listed", [t.name for t in listed].count(TEMPLATE), 1)
    tagged = templates.begin_update(group, TEMPLATE, models.ImageTemplateUpdateParameters(tags={"a": "b"})).result()
    same("its tags", tagged.tags, {"a": "b"})
    try:
        templates.begin_create_or_update(group, TEMPLATE, template).result()
    except HttpResponseError as error:
        same("the refusal of a change", error.error.code, "Conflict")
    else:
        sys.exit("a template was changed")


def trigger(client, group):
    source = models.Trigger(properties=models.SourceImageTriggerProperties())
    made = client.triggers.begin_create_or_update(group, TEMPLATE, "source", source).result()
    same("the trigger's kind", made.properties.kind, "SourceImage")
    same("its status", client.triggers.get(group, TEMPLATE, "source").properties.status.code, "Healthy")
    same("triggers", [t.name for t in client.triggers.list_by_image_template(group, TEMPLATE)], ["source"])
    client.triggers.begin_delete(group, TEMPLATE, "source").result()
    same("triggers that are left", list(client.triggers.list_by_image_template(group, TEMPLATE)), [])


def run(client, group):
    templates = client.virtual_machine_image_templates
    templates.begin_run(group, TEMPLATE).result()
    last = templates.get(group, TEMPLATE).properties.last_run_status
    same("the run", (last.run_state, last.message), ("Succeeded", ""))
    same("run outputs", [o.name for o in templates.list_run_outputs(group, TEMPLATE)], ["image"])
    output = templates.get_run_output(group, TEMPLATE, "image").properties
    same("the artifact", output.artifact_id.rsplit("/", 2)[1:], ["images", "python"])


def cancel(client, group):
    templates = client.virtual_machine_image_templates
    templates.begin_run(group, TEMPLATE, polling=False)
    same("it runs", templates.get(group, TEMPLATE).properties.last_run_status.run_state, "Running")
    templates.begin_cancel(group, TEMPLATE).result()
    state, deadline = "", time.monotonic() + 120
    while state != "Canceled" and time.monotonic() < deadline:
        state = templates.get(group, TEMPLATE).properties.last_run_status.run_state
        time.sleep(0.5)
    same("the cancelled run", state, "Canceled")


def remove(client, group):
    templates = client.virtual_machine_image_templates
    templates.begin_delete(group, TEMPLATE).result()
    try:
        templates.get(group, TEMPLATE)
    except ResourceNotFoundError:
        return
    sys.exit("the deleted template is there")


def main():
    group, identity, source = sys.argv[1:]
    builder = client(ImageBuilderClient)
    create(builder, group, identity, source)
    trigger(builder, group)
    run(builder, group)
    cancel(builder, group)
    remove(builder, group)
    print("ok")


if __name__ == "__main__":
    main()
