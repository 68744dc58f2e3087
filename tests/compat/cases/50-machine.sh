# shellcheck shell=bash disable=SC2154
# A network, and a machine from the image version: provisioned, reached by ssh, stopped, started, deleted. Needs the case `gallery`.

works 'group of the machine' az group create -n machines -l eastus
gives 'a network' Succeeded az network vnet create -g machines -n net --address-prefixes 10.0.0.0/16 \
  --subnet-name default --subnet-prefixes 10.0.0.0/24 --query newVNet.provisioningState -o tsv
gives 'a security group' Succeeded az network nsg create -g machines -n nsg --query NewNSG.provisioningState -o tsv
works 'open port 22' az network nsg rule create -g machines --nsg-name nsg -n ssh --priority 1000 --access Allow \
  --protocol Tcp --direction Inbound --destination-port-ranges 22
gives 'a public address' Succeeded az network public-ip create -g machines -n ip --sku Standard --allocation-method Static \
  --query publicIp.provisioningState -o tsv
gives 'an interface' Succeeded az network nic create -g machines -n nic --vnet-name net --subnet default \
  --network-security-group nsg --public-ip-address ip --query NewNIC.provisioningState -o tsv

[ -f "$work/key" ] || ssh-keygen -q -t ed25519 -N '' -f "$work/key"
base=/subscriptions/$subscription/resourceGroups/machines/providers
python3 - "$base" "/subscriptions/$subscription/resourceGroups/pictures/providers/Microsoft.Compute/galleries/gal/images/def/versions/1.0.0" \
  "$(cat "$work/key.pub")" > "$work/vm.json" <<'PYTHON'
import json, sys
base, image, key = sys.argv[1:]
print(json.dumps({"location": "eastus", "properties": {
    "hardwareProfile": {"vmSize": "Standard_B1ls"},
    "storageProfile": {"imageReference": {"id": image}, "osDisk": {"createOption": "FromImage", "deleteOption": "Delete"}},
    "osProfile": {"computerName": "compat-vm", "adminUsername": "azureuser", "linuxConfiguration": {
        "disablePasswordAuthentication": True,
        "ssh": {"publicKeys": [{"path": "/home/azureuser/.ssh/authorized_keys", "keyData": key}]}}},
    "networkProfile": {"networkInterfaces": [{"id": f"{base}/Microsoft.Network/networkInterfaces/nic"}]}}}))
PYTHON
power() { az vm get-instance-view -g machines -n vm --query "instanceView.statuses[?starts_with(code, 'PowerState/')].code | [0]" -o tsv; }
on_it() {
  ssh -i "$work/key" -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
    -o ConnectTimeout=20 "azureuser@$address" "$@"
}

works 'create a machine' az rest --method put --resource "$LAZULI_ENDPOINT" --body "@$work/vm.json" \
  --url "$LAZULI_ENDPOINT$base/Microsoft.Compute/virtualMachines/vm?api-version=2024-11-01"
works 'it is provisioned' az vm wait -g machines -n vm --created --interval 3 --timeout 600
gives 'show it' 'Succeeded Standard_B1ls' sh -c "az vm show -g machines -n vm --query '[provisioningState, hardwareProfile.vmSize]' -o tsv | xargs"
gives 'it runs' PowerState/running power
address=$(az network public-ip show -g machines -n ip --query ipAddress -o tsv)
holds 'ssh answers' until_true 120 on_it true
gives 'ssh to it' compat-vm on_it hostname
works 'the mark of this machine' on_it 'echo kept > mark; sync'
gives 'list machines' vm az vm list -g machines --query '[].name' -o tsv
gives 'list those of a location' vm az rest --resource "$LAZULI_ENDPOINT" --query 'value[].name' -o tsv \
  --url "$LAZULI_ENDPOINT/subscriptions/$subscription/providers/Microsoft.Compute/locations/eastus/virtualMachines?api-version=2024-11-01"
works 'patch its tags' az rest --method patch --resource "$LAZULI_ENDPOINT" --body '{"tags": {"purpose": "compat"}}' \
  --url "$LAZULI_ENDPOINT$base/Microsoft.Compute/virtualMachines/vm?api-version=2024-11-01"
works 'that ends' az vm wait -g machines -n vm --updated --interval 3 --timeout 60
gives 'they are shown' compat az vm show -g machines -n vm --query tags.purpose -o tsv

gives 'the sizes to choose from' 1 az vm list-sizes -l eastus --query "[?name=='Standard_B1s'].numberOfCores | [0]" -o tsv
gives 'and what they can do' Standard_B1s az vm list-skus -l eastus --size Standard_B1s --query '[0].name' -o tsv
works 'attach a new disk while it runs' az vm disk attach -g machines --vm-name vm --new --name extra --size-gb 1 --lun 4 --sku Standard_LRS
at_lun() { on_it "ls -d /sys/block/sd*/device/scsi_device/*:$1 2>/dev/null | wc -l"; }
gives 'the guest has it at its LUN' 1 at_lun 4
works 'a snapshot of the disk of a running machine' az snapshot create -g machines -n running -l eastus \
  --source "$(az vm show -g machines -n vm --query storageProfile.osDisk.managedDisk.id -o tsv)"
works 'detach it' az vm disk detach -g machines --vm-name vm -n extra
gives 'the guest has it no more' 0 at_lun 4
works 'delete the disk' az disk delete -g machines -n extra --yes
refuses 'no boot diagnostics yet' 'enable boot diagnostics' az vm boot-diagnostics get-boot-log -g machines -n vm
works 'boot diagnostics with managed storage' az vm boot-diagnostics enable -g machines -n vm
boot_log() { az vm boot-diagnostics get-boot-log -g machines -n vm | grep -c 'Linux version' || true; }
gives 'the log of its boot' 1 boot_log
screen() {
  local url
  url=$(az vm boot-diagnostics get-boot-log-uris -g machines -n vm --query consoleScreenshotBlobUri -o tsv)
  curl -sS --cacert "$data/ca.pem" -o "$work/screen.png" "$url"
  head -c 4 "$work/screen.png" | tail -c 3
}
gives 'a picture of its screen' PNG screen
works 'no diagnostics any more' az vm boot-diagnostics disable -g machines -n vm
gives 'the machine shows that' false az vm show -g machines -n vm --query diagnosticsProfile.bootDiagnostics.enabled -o tsv
works 'another size' az vm resize -g machines -n vm --size Standard_B1s
gives 'it has it' Standard_B1s az vm show -g machines -n vm --query hardwareProfile.vmSize -o tsv
holds 'ssh answers after the restart' until_true 120 on_it true
works 'redeploy it' az vm redeploy -g machines -n vm
holds 'ssh answers after that' until_true 120 on_it true
works 'reapply it' az vm reapply -g machines -n vm
works 'give it an identity' az vm identity assign -g machines -n vm --role Reader --scope "/subscriptions/$subscription/resourceGroups/machines"
gives 'show it' SystemAssigned az vm identity show -g machines -n vm --query type -o tsv
works 'and another' az identity create -g machines -n helper
works 'assign that too' az vm identity assign -g machines -n vm --identities helper
identity_token() {
  on_it "wget -qO- --header 'Metadata: true' 'http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/$1'" |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["access_token"])'
}
# as_guest: the groups that the machine's own identity sees.
as_guest() {
  curl -sS --cacert "$REQUESTS_CA_BUNDLE" -H "Authorization: Bearer $(identity_token '')" \
    "$LAZULI_ENDPOINT/subscriptions/$subscription/resourcegroups?api-version=2021-04-01" |
    python3 -c 'import json, sys; print(*[g["name"] for g in json.load(sys.stdin)["value"]])'
}
gives 'the guest acts as it' machines as_guest
works 'and as the other' identity_token "&client_id=$(az identity show -g machines -n helper --query clientId -o tsv)"
works 'take both away' az vm identity remove -g machines -n vm --identities helper '[system]'
refuses 'the guest gets no token any more' . identity_token ''
works 'delete the other' az identity delete -g machines -n helper
refuses 'an OS disk that is kept cannot be reimaged' 'OperationNotAllowed' az vm reimage -g machines -n vm

works 'two disks more' az disk create -g machines -n more1 -l eastus --size-gb 1
works 'of the same kind' az disk create -g machines -n more2 -l eastus --size-gb 1
disks=("$base/Microsoft.Compute/disks/more1" "$base/Microsoft.Compute/disks/more2")
works 'attach both at once' az vm disk attach -g machines --vm-name vm --disk-ids "${disks[@]}"
gives 'the machine shows them' 'more1 more2' \
  sh -c "az vm show -g machines -n vm --query 'storageProfile.dataDisks[].name' -o tsv | xargs"
works 'detach both at once' az vm disk detach -g machines --vm-name vm --disk-ids "${disks[@]}"
gives 'none is left' 0 az vm show -g machines -n vm --query 'length(storageProfile.dataDisks)' -o tsv
for d in more1 more2; do works "delete $d" az disk delete -g machines -n $d --yes; done
gives 'what it may become' Standard_B1s az vm list-vm-resize-options -g machines -n vm --query "[?name=='Standard_B1s'].name" -o tsv
works 'restart it' az vm restart -g machines -n vm
holds 'ssh answers after the restart' until_true 120 on_it true
refuses 'it does not hibernate' hibernat az vm deallocate -g machines -n vm --hibernate true

works 'stop it' az vm stop -g machines -n vm
gives 'it is stopped' PowerState/stopped power
works 'start it' az vm start -g machines -n vm
gives 'it runs again' PowerState/running power
holds 'ssh answers again' until_true 120 on_it true
gives 'its disk was kept' kept on_it cat mark
works 'an interface more' az network nic create -g machines -n nic2 --vnet-name net --subnet default
refuses 'not while it runs' 'must be stop-deallocated' az vm nic add -g machines --vm-name vm --nics nic2 --primary-nic nic
works 'deallocate it' az vm deallocate -g machines -n vm
gives 'it is deallocated' PowerState/deallocated power
works 'add the interface' az vm nic add -g machines --vm-name vm --nics nic2 --primary-nic nic
gives 'it has both' '2' az vm nic list -g machines --vm-name vm --query 'length(@)' -o tsv
works 'start it from there' az vm start -g machines -n vm
holds 'ssh answers once more' until_true 120 on_it true
gives 'the guest has both' 2 on_it 'ls -d /sys/class/net/eth* | wc -l'
works 'deallocate it again' az vm deallocate -g machines -n vm
works 'take the interface away' az vm nic remove -g machines --vm-name vm --nics nic2
works 'it is nobody'"'"'s' az network nic delete -g machines -n nic2
works 'start it with one' az vm start -g machines -n vm
holds 'ssh answers on that' until_true 120 on_it true

# The server may go at any time; the machine does not notice.
kill -9 "$server"; wait "$server" 2>/dev/null || true
gives 'kill -9 of the server: the machine runs on' kept on_it cat mark
start_server
gives 'the restarted server knows it' PowerState/running power

works 'delete it' az vm delete -g machines -n vm --yes
refuses 'it is gone' ResourceNotFound az vm show -g machines -n vm
gives 'its disk went with it' '' az disk list -g machines --query '[].name' -o tsv
