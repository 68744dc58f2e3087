# shellcheck shell=bash disable=SC2154
# `az vm create` as it is: a template that is deployed; the machine answers ssh at the printed address. Then templates of one's own
# through every command of `az deployment`. Needs the case `gallery`.

works 'group of the deployments' az group create -n deployed -l eastus
image=/subscriptions/$subscription/resourceGroups/pictures/providers/Microsoft.Compute/galleries/gal/images/def/versions/1.0.0
[ -f "$work/key" ] || ssh-keygen -q -t ed25519 -N '' -f "$work/key"
works 'az vm create from a gallery version' az vm create -g deployed -n made --image "$image" --size Standard_B1ls \
  --admin-username azureuser --ssh-key-values "$work/key.pub" --public-ip-sku Standard -o json
address=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["publicIpAddress"])' <<< "$out" 2>/dev/null || true)
gives 'it printed that the machine runs' 'VM running' \
  python3 -c 'import json, sys; print(json.loads(sys.argv[1])["powerState"])' "$out"
at_it() {
  ssh -i "$work/key" -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
    -o ConnectTimeout=20 "azureuser@$address" "$@"
}
holds 'ssh answers at the address that az printed' until_true 120 at_it true
gives 'it is that machine' made at_it hostname
gives 'what the template deployed' '5' az resource list -g deployed \
  --query "length([?starts_with(type, 'Microsoft.Network/') || type == 'Microsoft.Compute/virtualMachines'] | [?!contains(type, 'subnets') && !contains(type, 'securityRules')])"
works 'delete the machine' az vm delete -g deployed -n made --yes

python3 - "$work/template.json" <<'PYTHON'
import json, sys
gallery = {"type": "Microsoft.Compute/galleries", "apiVersion": "2024-03-03", "name": "[concat(parameters('prefix'), copyIndex())]",
           "location": "[resourceGroup().location]", "tags": {"by": "template"},
           "copy": {"name": "galleries", "count": "[parameters('count')]"}}
definition = {"type": "Microsoft.Compute/galleries/images", "apiVersion": "2024-03-03", "name": "[concat(parameters('prefix'), '0/def')]",
              "location": "[resourceGroup().location]", "dependsOn": ["galleries"],
              "properties": {"osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V2",
                             "identifier": {"publisher": "p", "offer": "o", "sku": "s"}}}
json.dump({"$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#", "contentVersion": "1.0.0.0",
           "parameters": {"prefix": {"type": "string"}, "count": {"type": "int", "defaultValue": 2},
                          "secret": {"type": "securestring", "defaultValue": ""}},
           "resources": [gallery, definition],
           "outputs": {"first": {"type": "string", "value": "[reference(resourceId('Microsoft.Compute/galleries', concat(parameters('prefix'), '0'))).provisioningState]"}}},
          open(sys.argv[1], "w"))
PYTHON
deployment=(az deployment group)
template=(-g deployed --template-file "$work/template.json" --parameters prefix=tpl)
works 'validate' "${deployment[@]}" validate "${template[@]}"
gives 'what-if' 'Create Create Create' sh -c "az deployment group what-if -g deployed --template-file '$work/template.json' \
  --parameters prefix=tpl --no-pretty-print --query \"changes[?changeType=='Create'].changeType\" -o tsv | xargs"
gives 'create' Succeeded "${deployment[@]}" create -n own "${template[@]}" secret=hush-hush --query properties.outputs.first.value -o tsv
gives 'show: a secure parameter has no value' type "${deployment[@]}" show -g deployed -n own \
  --query 'keys(properties.parameters.secret)' -o tsv
gives 'list' own "${deployment[@]}" list -g deployed --query "[?name=='own'].name" -o tsv
gives 'operation list' '3' az deployment operation group list -g deployed -n own \
  --query "length([?properties.targetResource && properties.provisioningState=='Succeeded'])"
# az prints the template whatever --query says.
gives 'export' 1.0.0.0 sh -c "az deployment group export -g deployed -n own |
  python3 -c 'import json, sys; print(json.load(sys.stdin)[\"contentVersion\"])'"
gives 'what it deployed' 'tpl0 tpl1' sh -c "az sig list -g deployed --query '[].name' -o tsv | sort | xargs"
refuses 'cancel what has ended' DeploymentCannotBeCancelled "${deployment[@]}" cancel -g deployed -n own
refuses 'a missing parameter' 'prefix' "${deployment[@]}" create -n bad -g deployed --template-file "$work/template.json" --no-prompt
gives 'complete mode' Succeeded "${deployment[@]}" create -n complete "${template[@]}" count=1 --mode Complete \
  --query properties.provisioningState -o tsv
gives 'only what the template has is left' tpl0 az sig list -g deployed --query '[].name' -o tsv
works 'delete' "${deployment[@]}" delete -g deployed -n own
refuses 'it is gone' DeploymentNotFound "${deployment[@]}" show -g deployed -n own
works 'the group goes with all of it' az group delete -n deployed --yes

# Above subscriptions: the tenant, which nobody owns at first, and the management group at its root.
tenant=$(az account show --query tenantId -o tsv)
python3 - "$work/tenant.json" "$subscription" <<'PYTHON'
import json, sys
schema = "https://schema.management.azure.com/schemas/%sTemplate.json#"
def template(kind, resources, outputs):
    return {"$schema": schema % kind, "contentVersion": "1.0.0.0", "resources": resources, "outputs": outputs}
def nested(name, more, inner):
    return {"type": "Microsoft.Resources/deployments", "apiVersion": "2022-09-01", "name": name, **more,
            "properties": {"mode": "Incremental", "expressionEvaluationOptions": {"scope": "inner"}, "template": inner}}
def output(expression):
    return {"own": {"type": "string", "value": expression}}
subscription = sys.argv[2]
group = {"type": "Microsoft.Resources/resourceGroups", "apiVersion": "2022-09-01", "name": "fromtenant", "location": "eastus"}
gallery = {"type": "Microsoft.Compute/galleries", "apiVersion": "2024-03-03", "name": "fromtenant", "location": "eastus"}
role = {"type": "Microsoft.Authorization/roleDefinitions", "apiVersion": "2022-04-01", "name": "[guid('watcher')]",
        "properties": {"roleName": "Watcher of disks", "type": "CustomRole", "permissions": [{"actions": ["Microsoft.Compute/disks/read"]}],
                       "assignableScopes": ["[concat('/providers/Microsoft.Management/managementGroups/', tenant().tenantId)]"]}}
below = nested("groups", {"subscriptionId": subscription, "location": "eastus"},
               template("2018-05-01/subscriptionDeployment", [group], output("[subscription().subscriptionId]")))
inner = nested("inner", {"subscriptionId": subscription, "resourceGroup": "fromtenant", "dependsOn": ["groups"]},
               template("2019-04-01/deployment", [gallery], {}))
json.dump(template("2019-08-01/tenantDeployment", [role, below, inner], output("[reference('groups').outputs.own.value]")), open(sys.argv[1], "w"))
json.dump(template("2019-08-01/managementGroupDeployment", [], output("[managementGroup().name]")), open(sys.argv[1].replace("tenant", "mg"), "w"))
json.dump(template("2019-08-01/tenantDeployment", [gallery], {}), open(sys.argv[1].replace("tenant", "lost"), "w"))
PYTHON
whole=(az deployment tenant)
at=(-l eastus --template-file "$work/tenant.json")
refuses 'the owner of a subscription is nobody at the tenant' AuthorizationFailed "${whole[@]}" create -n whole "${at[@]}"
works 'a role at the whole tenant' "$lazuli" admin --data-dir "$data" grant --client "$(credential objectId)" --role Owner --scope /
works 'validate at the tenant' "${whole[@]}" validate "${at[@]}"
gives 'what-if at the tenant' 'Create Create Create' sh -c "az deployment tenant what-if -l eastus --template-file '$work/tenant.json' \
  --no-pretty-print --query 'changes[].changeType' -o tsv | xargs"
gives 'create at the tenant' "$subscription" "${whole[@]}" create -n whole "${at[@]}" --query properties.outputs.own.value -o tsv
gives 'show' /providers/Microsoft.Resources/deployments/whole "${whole[@]}" show -n whole --query id -o tsv
gives 'list' whole "${whole[@]}" list --query '[].name' -o tsv
gives 'operation list at the tenant' 3 az deployment operation tenant list -n whole \
  --query "length([?properties.targetResource && properties.provisioningState=='Succeeded'])"
gives 'export at the tenant' 1.0.0.0 sh -c "az deployment tenant export -n whole |
  python3 -c 'import json, sys; print(json.load(sys.stdin)[\"contentVersion\"])'"
gives 'what was deployed from the tenant' fromtenant az sig list -g fromtenant --query '[].name' -o tsv
gives 'the role' 'Watcher of disks' az role definition list --name 'Watcher of disks' --query '[0].roleName' -o tsv
refuses 'cancel at the tenant what has ended' DeploymentCannotBeCancelled "${whole[@]}" cancel -n whole
refuses 'a gallery in no subscription' MissingSubscription "${whole[@]}" create -n lost -l eastus --template-file "$work/lost.json"
works 'delete at the tenant' "${whole[@]}" delete -n whole
refuses 'it is gone from the tenant' DeploymentNotFound "${whole[@]}" show -n whole
gives 'create at the management group' "$tenant" az deployment mg create -m "$tenant" -n top -l eastus \
  --template-file "$work/mg.json" --query properties.outputs.own.value -o tsv
gives 'list at the management group' top az deployment mg list -m "$tenant" --query '[].name' -o tsv
works 'delete at the management group' az deployment mg delete -m "$tenant" -n top
works 'the role goes' az role definition delete --name 'Watcher of disks'
works 'the group goes' az group delete -n fromtenant --yes
