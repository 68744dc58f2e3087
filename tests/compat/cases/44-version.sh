# shellcheck shell=bash disable=SC2154
# Galleries, definitions and versions by every other command of `az sig`: all sources, data disks, dates, soft deletion. Needs the
# case `disk`.

works 'group of the versions' az group create -n more -l eastus
image=(-g more -r moregal -i def)
golden=$(az disk show -g disks -n golden --query id -o tsv)
gives 'a gallery with a description' 'of the tests' az sig create -g more -r moregal --description 'of the tests' --query description -o tsv
gives 'show it' moregal az sig show -g more -r moregal --query name -o tsv
gives 'list the galleries of the group' moregal az sig list -g more --query '[].name' -o tsv
gives 'update it' other az sig update -g more -r moregal --set description=other --query description -o tsv
gives 'tags of it' y az sig update -g more -r moregal --set tags.x=y --query tags.x -o tsv
gives 'show it as any resource' Succeeded az resource show -g more -n moregal --resource-type Microsoft.Compute/galleries \
  --query properties.provisioningState -o tsv

definition=(az sig image-definition create "${image[@]}" --publisher p --offer o --sku s --os-type Linux --os-state Specialized --hyper-v-generation V2)
gives 'a definition with what it recommends' '2 8 x64' sh -c '"$@" | xargs' - "${definition[@]}" --features SecurityType=Standard \
  --minimum-cpu-core 2 --maximum-memory 8 --architecture x64 --disallowed-disk-types Standard_LRS \
  --query '[recommended.vCPUs.min, recommended.memory.max, architecture]' -o tsv
gives 'list the definitions' def az sig image-definition list -g more -r moregal --query '[].name' -o tsv
gives 'update it' words az sig image-definition update "${image[@]}" --set description=words --query description -o tsv
refuses 'what it is of does not change' "galleryImage.properties.osState' is not allowed" \
  az sig image-definition update "${image[@]}" --set osState=Generalized
gives 'show it' Specialized az sig image-definition show "${image[@]}" --query osState -o tsv

version=(az sig image-version create "${image[@]}")
works 'snapshots to make versions of' az snapshot create -g more -n os -l eastus --source "$golden"
works 'and a data disk' az disk create -g more -n data -l eastus --size-gb 1
gives 'a version with a data disk' '2 1' sh -c '"$@" | xargs' - "${version[@]}" -e 1.0.0 --os-snapshot os \
  --data-snapshots "$(az disk show -g more -n data --query id -o tsv)" --data-snapshot-luns 2 \
  --query 'storageProfile.dataDiskImages[0].[lun, sizeInGB]' -o tsv
works 'one that nobody waits for' "${version[@]}" -e 1.1.0 --os-snapshot os --no-wait
works 'until it is there' az sig image-version wait "${image[@]}" -e 1.1.0 --created --interval 1 --timeout 300
gives 'one with an end, not for latest, zone-redundant' '2099-01-01T00:00:00+00:00 true Standard_ZRS' sh -c '"$@" | xargs' - \
  "${version[@]}" -e 1.2.0 --os-snapshot os --end-of-life-date 2099-01-01T00:00:00Z --exclude-from-latest true \
  --target-regions eastus=1=standard_zrs \
  --query 'publishingProfile.[endOfLifeDate, excludeFromLatest, targetRegions[0].storageAccountType]' -o tsv
gives 'one of another version' Succeeded "${version[@]}" -e 2.0.0 --query provisioningState -o tsv \
  --image-version "$(az sig image-version show "${image[@]}" -e 1.0.0 --query id -o tsv)"
gives 'it has the data disk, too' 2 az sig image-version show "${image[@]}" -e 2.0.0 --query 'storageProfile.dataDiskImages[0].lun' -o tsv
gives 'a shallow one' Shallow "${version[@]}" -e 2.1.0 --os-snapshot os --replication-mode Shallow \
  --query publishingProfile.replicationMode -o tsv
gives 'more replicas' 3 az sig image-version update "${image[@]}" -e 1.1.0 --replica-count 3 --query publishingProfile.replicaCount -o tsv
gives 'not for latest' true az sig image-version update "${image[@]}" -e 1.1.0 --set publishingProfile.excludeFromLatest=true \
  --query publishingProfile.excludeFromLatest -o tsv
refuses 'its source does not change' "source.id' is not allowed" \
  az sig image-version update "${image[@]}" -e 1.1.0 --set storageProfile.osDiskImage.source.id="$golden"
works 'one that is kept until its end' az sig image-version update "${image[@]}" -e 1.2.0 --block-deletion-before-end-of-life true
refuses 'it stays' 'DeleteGalleryImageVersionBlockedBeforeEndOfLife' az sig image-version delete "${image[@]}" -e 1.2.0
works 'until somebody says otherwise' az sig image-version update "${image[@]}" -e 1.2.0 --block-deletion-before-end-of-life false
gives 'a disk of a version' 'FromImage Succeeded' sh -c '"$@" | xargs' - az disk create -g more -n from-version -l eastus \
  --gallery-image-reference "$(az sig image-version show "${image[@]}" -e 1.0.0 --query id -o tsv)" \
  --query '[creationData.createOption, provisioningState]' -o tsv
gives 'a disk of its data disk' 2 az disk create -g more -n from-lun -l eastus --gallery-image-reference-lun 2 \
  --gallery-image-reference "$(az sig image-version show "${image[@]}" -e 1.0.0 --query id -o tsv)" \
  --query creationData.galleryImageReference.lun -o tsv

works 'soft deletion' az sig update -g more -r moregal --soft-delete true
works 'delete a version' az sig image-version delete "${image[@]}" -e 1.1.0
refuses 'it is not there' 'NotFound' az sig image-version show "${image[@]}" -e 1.1.0
gives 'it can be seen among the deleted' 1.1.0 \
  az sig image-version list-soft-deleted "${image[@]}" --query '[].name' -o tsv
works 'ask it back' az sig image-version undelete "${image[@]}" -e 1.1.0
gives 'it is there again' Succeeded az sig image-version show "${image[@]}" -e 1.1.0 --query provisioningState -o tsv
works 'no soft deletion' az sig update -g more -r moregal --soft-delete false

# A VHD in a storage account, through the names that Azure's clients know.
works 'an account' az storage account create -g more -n lzmorevhds -l eastus --sku Standard_LRS
key=$(az storage account keys list -g more -n lzmorevhds --query '[0].value' -o tsv)
by_key=(--account-name lzmorevhds --account-key "$key" --blob-endpoint "$(credential armEndpoint)/lzmorevhds")
works 'a container' az storage container create -n vhds "${by_key[@]}"
works 'a VHD in it' az storage blob upload -c vhds -n tiny.vhd -f "$tiny" --type page "${by_key[@]}" --no-progress
vhd=https://lzmorevhds.blob.core.windows.net/vhds/tiny.vhd
gives 'a version of a VHD' Succeeded "${version[@]}" -e 3.0.0 --os-vhd-uri "$vhd" --os-vhd-storage-account lzmorevhds \
  --query provisioningState -o tsv
gives 'a disk of a VHD' Import az disk create -g more -n imported -l eastus --source "$vhd" --os-type Linux --hyper-v-generation V2 \
  --query creationData.createOption -o tsv
gives 'a managed image of a VHD' Succeeded az image create -g more -n imported -l eastus --source "$vhd" --os-type Linux \
  --hyper-v-generation V2 --query provisioningState -o tsv
gives 'and of a snapshot' Succeeded az image create -g more -n snapped -l eastus --source os --os-type Linux --hyper-v-generation V2 \
  --query provisioningState -o tsv
works 'a definition of generalized images' az sig image-definition create -g more -r moregal -i general --publisher p --offer o \
  --sku general --os-type Linux --os-state Generalized --hyper-v-generation V2 --features SecurityType=Standard
gives 'a version of a managed image' Succeeded az sig image-version create -g more -r moregal -i general -e 1.0.0 \
  --managed-image "$(az image show -g more -n snapped --query id -o tsv)" --query provisioningState -o tsv
gives 'all versions of the other, by number' '1.0.0 1.1.0 1.2.0 2.0.0 2.1.0 3.0.0' \
  sh -c "az sig image-version list ${image[*]} --query '[].name' -o tsv | xargs"
works 'delete the group with all of it' az group delete -n more --yes
