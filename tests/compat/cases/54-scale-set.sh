# shellcheck shell=bash disable=SC2154
# Scale sets in both orchestration modes: made by `az vmss create`, scaled, stopped, reimaged, brought to another image, deleted; and the
# custom script as az puts it into a machine. Needs the case `gallery`.

works 'group of the sets' az group create -n sets -l eastus
[ -f "$work/key" ] || ssh-keygen -q -t ed25519 -N '' -f "$work/key"
version=/subscriptions/$subscription/resourceGroups/pictures/providers/Microsoft.Compute/galleries/gal/images/def/versions/1.0.0
works 'their network' az network vnet create -g sets -n net --address-prefixes 10.0.0.0/16 --subnet-name default --subnet-prefixes 10.0.0.0/24
works 'its rules' az network nsg create -g sets -n nsg
works 'open port 22' az network nsg rule create -g sets --nsg-name nsg -n ssh --priority 1000 --access Allow --protocol Tcp \
  --direction Inbound --destination-port-ranges 22
# An agent is waited for as long as a machine is young: this one is asked last.
works 'an interface' az network nic create -g sets -n nic --vnet-name net --subnet default
works 'a machine' az vm create -g sets -n scripted --size Standard_B1ls --nics nic --image "$version" --security-type Standard \
  --admin-username azureuser --ssh-key-values "$work/key.pub"
# set_of NAME MODE COUNT
set_of() {
  az vmss create -g sets -n "$1" --orchestration-mode "$2" --instance-count "$3" --image "$version" --security-type Standard \
    --vm-sku Standard_B1ls --admin-username azureuser --ssh-key-values "$work/key.pub" --load-balancer '' --vnet-name net --subnet default \
    --nsg nsg --public-ip-per-vm --upgrade-policy-mode Manual -o json
}
ids() { az vmss list-instances -g sets -n "$1" --query '[].instanceId' -o tsv | xargs; }

works 'az vmss create: Uniform' set_of uniform Uniform 1
gives 'show it' 'Uniform 1 Succeeded' \
  sh -c "az vmss show -g sets -n uniform --query '[orchestrationMode, sku.capacity, provisioningState]' -o tsv | xargs"
gives 'its instances have numbers' 0 ids uniform
gives 'they are no machines of the group' scripted az vm list -g sets --query '[].name' -o tsv
address=$(az network public-ip list -g sets --query '[0].ipAddress' -o tsv)
on_set() {
  ssh -i "$work/key" -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
    -o ConnectTimeout=20 "azureuser@$address" "$@"
}
holds 'ssh answers' until_true 120 on_set true
gives 'it has the name of its number' 1 sh -c "az vmss list-instances -g sets -n uniform --query '[0].osProfile.computerName' -o tsv | grep -c '000000$'"
works 'two machines' az vmss scale -g sets -n uniform --new-capacity 2
gives 'one more number' '0 1' ids uniform
works 'stop one' az vmss stop -g sets -n uniform --instance-ids 1
instance_power() {
  az vmss get-instance-view -g sets -n uniform --instance-id "$1" --query "statuses[?starts_with(code, 'PowerState/')].code | [0]" -o tsv
}
gives 'that one is off' PowerState/stopped instance_power 1
gives 'the other runs' PowerState/running instance_power 0
works 'start it' az vmss start -g sets -n uniform --instance-ids 1
gives 'it runs' PowerState/running instance_power 1
works 'delete the first' az vmss delete-instances -g sets -n uniform --instance-ids 0
gives 'the other stays' 1 ids uniform
vm_id() { az vmss list-instances -g sets -n uniform --query '[0].vmId' -o tsv; }
before=$(vm_id)
works 'make it again' az vmss reimage -g sets -n uniform --instance-ids 1
holds 'it is a new machine' test "$before" != "$(vm_id)"
works 'bring it to the model' az vmss update-instances -g sets -n uniform --instance-ids '*'
gives 'it is of the model' true az vmss list-instances -g sets -n uniform --query '[0].latestModelApplied' -o tsv
works 'a model of another version' az vmss update -g sets -n uniform \
  --set "virtualMachineProfile.storageProfile.imageReference.id=${version%1.0.0}1.0.10"
gives 'it is not of the model' false az vmss list-instances -g sets -n uniform --query '[0].latestModelApplied' -o tsv
works 'az vmss rolling-upgrade start' az vmss rolling-upgrade start -g sets -n uniform
gives 'az vmss rolling-upgrade get-latest' 'Completed 1' sh -c \
  "az vmss rolling-upgrade get-latest -g sets -n uniform --query '[runningStatus.code, progress.successfulInstanceCount]' -o tsv | xargs"
gives 'it is of the new model' true az vmss list-instances -g sets -n uniform --query '[0].latestModelApplied' -o tsv
refuses 'az vmss rolling-upgrade cancel where none runs' 'no ongoing Rolling Upgrade' az vmss rolling-upgrade cancel -g sets -n uniform
gives 'upgrades in batches' 'Rolling 50' sh -c "az vmss update -g sets -n uniform --set upgradePolicy.mode=Rolling \
  --max-batch-instance-percent 50 --query '[upgradePolicy.mode, upgradePolicy.rollingUpgradePolicy.maxBatchInstancePercent]' -o tsv | xargs"
works 'and as somebody asks' az vmss update -g sets -n uniform --set upgradePolicy.mode=Manual
script=(--vmss-name uniform -g sets --publisher Microsoft.Azure.Extensions -n CustomScript)
works 'a script in the model' az vmss extension set "${script[@]}" --version 2.1 --settings '{"commandToExecute": "true"}'
gives 'it is there' CustomScript az vmss extension list -g sets --vmss-name uniform --query '[].name' -o tsv
of_set=/subscriptions/$subscription/resourceGroups/sets/providers/Microsoft.Compute/virtualMachineScaleSets/uniform
gives 'it is a resource' CustomScript az rest --resource "$LAZULI_ENDPOINT" --query properties.type -o tsv \
  --url "$LAZULI_ENDPOINT$of_set/extensions/CustomScript?api-version=2024-11-01"
refuses 'another extension' ArtifactNotFound az vmss extension set -g sets --vmss-name uniform \
  --publisher Microsoft.Azure.ActiveDirectory -n AADSSHLoginForLinux --version 1.0
works 'no script in the model' az vmss extension delete -g sets --vmss-name uniform -n CustomScript
works 'delete the set' az vmss delete -g sets -n uniform
gives 'nothing of it is left' nic az network nic list -g sets --query '[].name' -o tsv

works 'az vmss create: Flexible' set_of flexible Flexible 1
name=$(ids flexible)
gives 'its instance is a machine' "$name scripted" sh -c "az vm list -g sets --query 'sort([].name)' -o tsv | xargs"
works 'none' az vmss scale -g sets -n flexible --new-capacity 0
gives 'it is gone' scripted az vm list -g sets --query '[].name' -o tsv

# The tiny guest has no agent: what az sends is taken, and the failure is told.
gives 'the extension that there is' '2.1.10' az vm extension image list -l eastus -p Microsoft.Azure.Extensions --query '[].version' -o tsv
refuses 'a script for a guest without an agent' VMAgentStatusCommunicationError az vm extension set -g sets --vm-name scripted \
  --publisher Microsoft.Azure.Extensions -n CustomScript --settings '{"commandToExecute": "true"}'
gives 'show it' Failed az vm extension show -g sets --vm-name scripted -n CustomScript --query provisioningState -o tsv
gives 'list it' CustomScript az vm extension list -g sets --vm-name scripted --query '[].name' -o tsv
refuses 'another extension' ArtifactNotFound az vm extension set -g sets --vm-name scripted --publisher Microsoft.Azure.ActiveDirectory \
  -n AADSSHLoginForLinux --version 1.0
works 'delete it' az vm extension delete -g sets --vm-name scripted -n CustomScript
gives 'none is left' '[]' az vm extension list -g sets --vm-name scripted -o json
works 'a gallery for applications' az sig create -g sets -r appset
works 'an application' az sig gallery-application create -g sets -r appset -n tool --os-type Linux
works 'an account for its package' az storage account create -g sets -n lzappset -l eastus --sku Standard_LRS
by_key=(--account-name lzappset --account-key "$(az storage account keys list -g sets -n lzappset --query '[0].value' -o tsv)"
  --blob-endpoint "$(credential armEndpoint)/lzappset")
works 'a container' az storage container create -n packages "${by_key[@]}"
echo a package > "$work/package"
works 'its package' az storage blob upload -c packages -n package -f "$work/package" --type block "${by_key[@]}" --no-progress
application=$(az sig gallery-application version create -g sets -r appset --application-name tool -n 1.0.0 --install-command true \
  --remove-command true --package-file-link https://lzappset.blob.core.windows.net/packages/package --query id -o tsv)
refuses 'an application for a guest without an agent' VMAgentStatusCommunicationError \
  az vm application set -g sets -n scripted --app-version-ids "$application"
gives 'az vm application list' "$application" \
  az vm application list -g sets -n scripted --query 'galleryApplications[].packageReferenceId' -o tsv
refuses 'a version that is not there' GalleryImageNotFound \
  az vm application set -g sets -n scripted --app-version-ids "${application%1.0.0}9.0.0"
works 'delete all' az group delete -n sets --yes
