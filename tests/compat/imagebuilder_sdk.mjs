// @azure/arm-imagebuilder: a template is created, shown, listed, tagged, triggered, run, run again and cancelled, deleted.
//
//   node imagebuilder_sdk.mjs GROUP IDENTITY_ID SOURCE     (SOURCE: an image version's id, of generalized tiny guests, ending in /latest)
//
// Server, owner and CA come from the environment (`lazuli env`), the packages from the folder NODE_HOME. Ends with 0 only if every
// state is what was asked for.

import { client, refused, require, same } from "./sdk.mjs";

const { ImageBuilderClient } = require("@azure/arm-imagebuilder");

const [group, identity, source] = process.argv.slice(2);
const env = process.env;
const name = "javascript";

const { virtualMachineImageTemplates: templates, triggers } = client(ImageBuilderClient);
const all = async (pages) => {
  const names = [];
  for await (const item of pages) names.push(item.name);
  return names;
};
const lastRun = async () => (await templates.get(group, name)).lastRunStatus;

const image = `/subscriptions/${env.AZURE_SUBSCRIPTION_ID}/resourceGroups/${group}/providers/Microsoft.Compute/images/${name}`;
const template = {
  location: "eastus",
  identity: { type: "UserAssigned", userAssignedIdentities: { [identity]: {} } },
  source: { type: "SharedImageVersion", imageVersionId: source },
  // The tiny guest has neither of the agents that generalize Linux.
  customize: [{
    type: "Shell", name: "mark",
    inline: ["echo javascript | sudo tee /var/lib/built-by", "echo deprovision > /tmp/DeprovisioningScript.sh"],
  }],
  distribute: [{ type: "ManagedImage", runOutputName: "image", imageId: image, location: "eastus" }],
  vmProfile: { vmSize: "Standard_B1ls" },
};
const made = await templates.createOrUpdate(group, name, template);
same("the template's state", made.provisioningState, "Succeeded");
const shown = await templates.get(group, name);
same("its step", [shown.customize[0].type, shown.customize[0].name], ["Shell", "mark"]);
for (const listed of [templates.listByResourceGroup(group), templates.list()]) {
  same("how often it is listed", (await all(listed)).filter((n) => n === name).length, 1);
}
same("its tags", (await templates.update(group, name, { tags: { a: "b" } })).tags, { a: "b" });
await refused("the refusal of a change", "Conflict", () => templates.createOrUpdate(group, name, template));

const trigger = await triggers.createOrUpdate(group, name, "source", { properties: { kind: "SourceImage" } });
same("the trigger's kind", trigger.properties.kind, "SourceImage");
same("its status", (await triggers.get(group, name, "source")).properties.status.code, "Healthy");
same("triggers", await all(triggers.listByImageTemplate(group, name)), ["source"]);
await triggers.delete(group, name, "source");
same("triggers that are left", await all(triggers.listByImageTemplate(group, name)), []);

await templates.run(group, name);
same("the run", (await lastRun()).runState, "Succeeded");
same("run outputs", await all(templates.listRunOutputs(group, name)), ["image"]);
const output = await templates.getRunOutput(group, name, "image");
same("the artifact", output.artifactId.split("/").slice(-2), ["images", name]);

// The second run is followed to its end, which the cancellation brings.
const again = templates.run(group, name);
const ended = again.then(() => "Succeeded", (error) => error.message);
await again.submitted();
same("it runs", (await lastRun()).runState, "Running");
await templates.cancel(group, name);
same("a cancelled run is told to have been", /cancel/i.test(await ended), true);
same("the cancelled run", (await lastRun()).runState, "Canceled");

await templates.delete(group, name);
await refused("the deleted template", "ResourceNotFound", () => templates.get(group, name));
console.log("ok");
