# shellcheck shell=bash disable=SC2154
# Debian's Packer with its azure-arm builder, through the proxy, as it is: a shell provisioner on a real Debian guest; a managed image
# and an image version in two regions; a machine of that version has what the provisioner put there. Needs nothing of the other cases.

debian=${LAZULI_GUEST_DEBIAN:-$("$repo/scripts/guest/debian" 2>/dev/null)} || die 'the Debian guest is not built: scripts/guest/debian'
command -v packer >/dev/null || die 'packer is missing: run scripts/setup'
works 'group of Packer' az group create -n packer -l eastus
works 'a disk to upload to' az disk create -g packer -n base -l eastus --upload-type Upload \
  --upload-size-bytes "$(stat -c %s "$debian")" --os-type Linux --hyper-v-generation V2 --sku Standard_LRS
works 'grant writing' az disk grant-access -g packer -n base --access-level Write --duration-in-seconds 3600 --query accessSAS -o tsv
works 'upload Debian' azcopy copy "$debian" "$out" --from-to LocalBlob --blob-type PageBlob --output-level essential
works 'end the upload' az disk revoke-access -g packer -n base
works 'the image to build on' az image create -g packer -n base -l eastus --os-type Linux --hyper-v-generation V2 \
  --source "$(az disk show -g packer -n base --query id -o tsv)"
works 'a gallery' az sig create -g packer -r packergal
works 'a definition' az sig image-definition create -g packer -r packergal -i built --publisher p --offer o --sku s --os-type Linux \
  --os-state Generalized --hyper-v-generation V2 --features SecurityType=Standard

# The machine's id is emptied and not deleted: systemd could not make it anew on a root that is still read-only.
cat > "$work/packer.json" <<'JSON'
{
  "variables": {"client": "{{env `CLIENT`}}", "secret": "{{env `SECRET`}}", "tenant": "{{env `TENANT`}}", "subscription": "{{env `SUBSCRIPTION`}}"},
  "builders": [{
    "type": "azure-arm",
    "client_id": "{{user `client`}}", "client_secret": "{{user `secret`}}",
    "tenant_id": "{{user `tenant`}}", "subscription_id": "{{user `subscription`}}",
    "custom_managed_image_resource_group_name": "packer", "custom_managed_image_name": "base",
    "managed_image_resource_group_name": "packer", "managed_image_name": "built",
    "shared_image_gallery_destination": {"resource_group": "packer", "gallery_name": "packergal", "image_name": "built",
      "image_version": "1.0.0", "replication_regions": ["eastus", "westus2"]},
    "os_type": "Linux", "location": "eastus", "vm_size": "Standard_B1ms", "ssh_username": "packer"
  }],
  "provisioners": [{"type": "shell", "inline": [
    "cloud-init status --wait >/dev/null",
    "echo built by $(whoami) | sudo tee /etc/built",
    "sudo cloud-init clean --logs",
    "sudo rm -rf /etc/ssh/ssh_host_* /etc/hostname /etc/systemd/network/10-cloud-init-*.network",
    "sudo truncate -s 0 /etc/machine-id",
    "sync"
  ]}]
}
JSON
# Go reads HTTPS_PROXY and SSL_CERT_FILE; the guest itself is reached without the proxy.
packed() {
  env -i PATH="$PATH" HOME="$work/home" HTTPS_PROXY="$(credential proxyEndpoint)" SSL_CERT_FILE="$REQUESTS_CA_BUNDLE" \
    CHECKPOINT_DISABLE=1 PACKER_CACHE_DIR="$work/packer-cache" CLIENT="$(credential clientId)" SECRET="$(credential clientSecret)" \
    TENANT="$(credential tenantId)" SUBSCRIPTION="$subscription" packer build -color=false "$work/packer.json"
}
mkdir -p "$work/home"
works 'packer build' packed
grep -E 'ManagedImage(Name|SharedImageGalleryId)' <<< "$out" | sed 's/^/        /' || true
gives 'the managed image' 'Succeeded Generalized' \
  sh -c "az image show -g packer -n built --query '[provisioningState, storageProfile.osDisk.osState]' -o tsv | xargs"
gives 'the version in both regions' 'East US:Completed West US 2:Completed' \
  sh -c "az sig image-version show -g packer -r packergal -i built -e 1.0.0 --expand ReplicationStatus \
    --query 'sort_by(replicationStatus.summary, &region)[].join(\`:\`, [region, state])' -o tsv | xargs -d '\n'"
gives 'nothing of the build is left' packer sh -c "az group list --query \"[?starts_with(name, 'packer')].name\" -o tsv | xargs"

[ -f "$work/key" ] || ssh-keygen -q -t ed25519 -N '' -f "$work/key"
works 'a machine of the version' az vm create -g packer -n made --size Standard_B1ms --public-ip-sku Standard -o json \
  --image "$(az sig image-version show -g packer -r packergal -i built -e 1.0.0 --query id -o tsv)" \
  --admin-username azureuser --ssh-key-values "$work/key.pub"
address=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["publicIpAddress"])' <<< "$out" 2>/dev/null || true)
on_made() {
  ssh -i "$work/key" -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
    -o ConnectTimeout=30 "azureuser@$address" "$@"
}
holds 'ssh answers' until_true 240 on_made true
gives 'it has what the provisioner put there' 'built by packer' on_made cat /etc/built
gives 'it is a machine of its own' made on_made hostname
works 'delete the group' az group delete -n packer --yes
