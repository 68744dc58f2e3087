# shellcheck shell=bash disable=SC2154
# Managed images from disks: normal form, tags, immutables, a machine's reference, delete. Needs the case `disk`.

works 'group of the images' az group create -n images -l eastus
source=$(az disk show -g disks -n golden --query id -o tsv)
image=(-g images -n img1)
gives 'an image of a disk' Succeeded \
  az image create "${image[@]}" -l eastus --source "$source" --os-type Linux --hyper-v-generation V2 \
  --data-disk-sources "$source" --query provisioningState -o tsv
gives 'it is generalized' 'Generalized Linux None Standard_LRS' \
  sh -c "az image show ${image[*]} --query 'storageProfile.osDisk.[osState, osType, caching, storageAccountType]' -o tsv | xargs"
gives 'its data disk has a LUN' 0 az image show "${image[@]}" --query 'storageProfile.dataDisks[0].lun' -o tsv
gives 'tags change' y az image update "${image[@]}" --tags x=y --query tags.x -o tsv
gives 'list them' img1 az image list -g images --query '[].name' -o tsv
refuses 'another zone resilience' "Changing property 'zoneResilient' is not allowed" \
  az image update "${image[@]}" --set storageProfile.zoneResilient=true
refuses 'another generation than the source' 'Hypervisor generation' \
  az image create -g images -n img2 -l eastus --source "$source" --os-type Linux --hyper-v-generation V1
refuses 'another region than the source' 'NotFound' \
  az image create -g images -n img2 -l westus2 --source "$source" --os-type Linux --hyper-v-generation V2
works 'delete it' az image delete "${image[@]}"
refuses 'it is gone' 'ResourceNotFound' az image show "${image[@]}"
works 'delete the group' az group delete -n images --yes
