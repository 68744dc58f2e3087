# shellcheck shell=bash disable=SC2154
# `az vm create` from everything that a machine can be made of: a definition, a managed image, a platform image, a disk of a
# snapshot, a specialized version. Each machine answers ssh at the address that az printed, and goes. Needs the cases `disk` and `gallery`.

works 'group of the machines' az group create -n sources -l eastus
[ -f "$work/key" ] || ssh-keygen -q -t ed25519 -N '' -f "$work/key"
login=(--admin-username azureuser --ssh-key-values "$work/key.pub")
at() {
  ssh -i "$work/key" -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
    -o ConnectTimeout=20 "azureuser@$address" "$@"
}
# made NAME ARGUMENT...: the machine NAME of these; ssh answers as az printed it.
made() {
  local name=$1; shift
  works "az vm create: $name" az vm create -g sources -n "$name" --size Standard_B1ls --public-ip-sku Standard -o json "$@"
  address=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["publicIpAddress"])' <<< "$out" 2>/dev/null || true)
  holds "$name: ssh answers at the address that az printed" until_true 120 at true
}
# gone NAME: the machine, and its disk with it, which az asks to keep.
gone() {
  works "delete $1" az vm delete -g sources -n "$1" --yes
  for id in $(az disk list -g sources --query "[?starts_with(name, '$1')].id" -o tsv); do az disk delete --ids "$id" --yes >/dev/null; done
}

definition=$(az sig image-definition show -g pictures -r gal -i def --query id -o tsv)
made definition --image "$definition" "${login[@]}"
gives 'definition: it is that machine' definition at hostname
gives 'definition: it runs the newest version' 1.0.10 \
  az vm show -g sources -n definition --query storageProfile.imageReference.exactVersion -o tsv
gone definition

golden=$(az disk show -g disks -n golden --query id -o tsv)
works 'a managed image' az image create -g sources -n managed -l eastus --source "$golden" --os-type Linux --hyper-v-generation V2
works 'an availability set' az vm availability-set create -g sources -n set --platform-fault-domain-count 2
made managed-image --image managed --availability-set set "${login[@]}"
gives 'managed image: it is that machine' managed-image at hostname
gives 'and in its availability set' managed-image \
  sh -c "basename \$(az vm availability-set show -g sources -n set --query 'virtualMachines[0].id' -o tsv)"
refuses 'which stays as long' 'please ensure that it does not contain any VM' az vm availability-set delete -g sources -n set
gone managed-image
works 'and goes after it' az vm availability-set delete -g sources -n set
refuses 'what machines do not do here is told' 'machines do not hibernate' az vm create -g sources -n sleeps --image managed \
  --size Standard_B1ls --enable-hibernation true "${login[@]}"

works 'a platform image' "$lazuli" image publish --data-dir "$data" --publisher Lazuli --offer source --sku gen2 --generation V2 \
  --version 1.0.0 --location eastus "$tiny"
made platform-image --image Lazuli:source:gen2:latest --security-type Standard "${login[@]}"
gives 'platform image: it is that machine' platform-image at hostname
works 'platform image: a mark on its disk' at 'echo kept > mark; sync'

# What has run once is a source of what is specialized: nobody provisions it again.
works 'stop it' az vm deallocate -g sources -n platform-image
os=$(az vm show -g sources -n platform-image --query storageProfile.osDisk.managedDisk.id -o tsv)
works 'a snapshot of its disk' az snapshot create -g sources -n snap -l eastus --source "$os"
works 'a disk of the snapshot' az disk create -g sources -n from-snapshot -l eastus --source snap
works 'a definition of what is specialized' az sig image-definition create -g pictures -r gal -i special --publisher p --offer o \
  --sku special --os-type Linux --os-state Specialized --hyper-v-generation V2 --features SecurityType=Standard
works 'a version straight from the machine' az sig image-version create -g pictures -r gal -i special -e 1.0.0 \
  --virtual-machine "$(az vm show -g sources -n platform-image --query id -o tsv)"
gone platform-image

made from-snapshot --attach-os-disk from-snapshot --os-type Linux
gives 'disk of a snapshot: what was on it' kept at cat mark
gone from-snapshot

# az asks for a key, and does not send it.
made specialized --image "$(az sig image-version show -g pictures -r gal -i special -e 1.0.0 --query id -o tsv)" --specialized "${login[@]}"
gives 'specialized version: what was on it' kept at cat mark
gone specialized

works 'delete the specialized version' az sig image-version delete -g pictures -r gal -i special -e 1.0.0
works 'delete its definition' az sig image-definition delete -g pictures -r gal -i special
works 'delete the group' az group delete -n sources --yes
works 'unpublish the platform image' "$lazuli" image unpublish --data-dir "$data" Lazuli:source:gen2:1.0.0
