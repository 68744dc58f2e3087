# shellcheck shell=bash disable=SC2154
# Snapshots and disk accesses: full and incremental, copied between regions, read over a SAS; disks that come of them, and change.
# Needs the case `disk`.

works 'group of the snapshots' az group create -n snaps -l eastus
golden=$(az disk show -g disks -n golden --query id -o tsv)
snapshot=(az snapshot create -g snaps -l eastus)
gives 'a snapshot of a disk' 'Succeeded Standard_LRS Copy' \
  sh -c '"$@" | xargs' - "${snapshot[@]}" -n full --source "$golden" --query '[provisioningState, sku.name, creationData.createOption]' -o tsv
gives 'an incremental one' true "${snapshot[@]}" -n first --source "$golden" --incremental true --query incremental -o tsv
family=$(az snapshot show -g snaps -n first --query incrementalSnapshotFamilyId -o tsv)
works 'and the next' "${snapshot[@]}" -n second --source "$golden" --incremental true
gives 'they are of one family' "$family" az snapshot show -g snaps -n second --query incrementalSnapshotFamilyId -o tsv
gives 'list them' 'first full second' sh -c "az snapshot list -g snaps --query 'sort_by([], &name)[].name' -o tsv | xargs"
gives 'tags change' y az snapshot update -g snaps -n full --set tags.x=y --query tags.x -o tsv
gives 'a snapshot of a snapshot' Succeeded "${snapshot[@]}" -n again --source full --query provisioningState -o tsv

works 'a copy in another region' az snapshot create -g snaps -n far -l westus2 --incremental true --copy-start true \
  --source "$(az snapshot show -g snaps -n second --query id -o tsv)"
copied() { [ "$(az snapshot show -g snaps -n far --query completionPercent -o tsv)" = 100.0 ]; }
holds 'it is complete' until_true 60 copied
refuses 'a full one is not copied between regions' '[Ii]ncremental' az snapshot create -g snaps -n farther -l westus2 --copy-start true \
  --source "$(az snapshot show -g snaps -n full --query id -o tsv)"

works 'grant reading' az snapshot grant-access -g snaps -n far --duration-in-seconds 600 --query accessSAS -o tsv
sas=$out
gives 'it is being read' ActiveSAS az snapshot show -g snaps -n far --query diskState -o tsv
works 'download it' azcopy copy "$sas" "$work/snapshot.vhd" --from-to BlobLocal --output-level essential
data_of() { head -c $(($(stat -c %s "$tiny") - 512)) "$1" | sha256sum; }
gives 'the same bytes as the disk was made of' "$(data_of "$tiny")" data_of "$work/snapshot.vhd"
refuses 'one that is being read stays' 'active shared access signature outstanding' az snapshot delete -g snaps -n far
works 'end reading' az snapshot revoke-access -g snaps -n far
gives 'it is free' Unattached az snapshot show -g snaps -n far --query diskState -o tsv

gives 'a disk of a snapshot' 'Copy Succeeded' \
  sh -c '"$@" | xargs' - az disk create -g snaps -n restored -l eastus --source full --query '[creationData.createOption, provisioningState]' -o tsv
gives 'it grows' 8 az disk update -g snaps -n restored --size-gb 8 --query diskSizeGB -o tsv
refuses 'it does not shrink' 'OperationNotAllowed|size' az disk update -g snaps -n restored --size-gb 4
gives 'another SKU' StandardSSD_LRS az disk update -g snaps -n restored --sku StandardSSD_LRS --query sku.name -o tsv
gives 'a tier' P10 az disk create -g snaps -n tiered -l eastus --size-gb 32 --sku Premium_LRS --tier P10 --query tier -o tsv
gives 'shared by three machines' 3 az disk create -g snaps -n shared -l eastus --size-gb 256 --sku Premium_LRS --max-shares 3 --query maxShares -o tsv
refuses 'performance plus is for large disks' 'can only be set on disks at least 512 GB' \
  az disk create -g snaps -n plus -l eastus --size-gb 512 --sku Premium_LRS --performance-plus true

gives 'a disk access' Succeeded az disk-access create -g snaps -n door -l eastus --query provisioningState -o tsv
gives 'list them' door az disk-access list -g snaps --query '[].name' -o tsv
gives 'its tags change' y az disk-access update -g snaps -n door --tags x=y --query tags.x -o tsv
gives 'a disk behind it' AllowPrivate az disk update -g snaps -n restored --network-access-policy AllowPrivate --disk-access door \
  --query networkAccessPolicy -o tsv
refuses 'nobody reads it from outside' 'networkAccessPolicy' az disk grant-access -g snaps -n restored --duration-in-seconds 60
refuses 'a door with a disk behind it stays' 'door|disk' az disk-access delete -g snaps -n door
works 'delete a snapshot' az snapshot delete -g snaps -n again
refuses 'it is gone' ResourceNotFound az snapshot show -g snaps -n again
works 'delete the group' az group delete -n snaps --yes
