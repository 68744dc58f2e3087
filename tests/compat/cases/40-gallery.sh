# shellcheck shell=bash disable=SC2154
# Gallery, definition, versions: replication to several regions, order, updates, deletes, bad inputs. Needs the case `disk`.

image=(-g pictures -r gal -i def)
works 'group of the gallery' az group create -n pictures -l eastus
gives 'create a gallery' Succeeded az sig create -g pictures -r gal --query provisioningState -o tsv
gives 'create a definition' Generalized \
  az sig image-definition create "${image[@]}" --publisher p --offer o --sku s --os-type Linux --os-state Generalized \
  --hyper-v-generation V2 --features SecurityType=Standard --query osState -o tsv
source=$(az disk show -g disks -n golden --query id -o tsv)
version=(az sig image-version create "${image[@]}")
from=(--os-snapshot "$source")

gives 'a version in three regions' Succeeded \
  "${version[@]}" -e 1.0.0 "${from[@]}" --target-regions eastus westus2=1 northeurope=1=standard_lrs --query provisioningState -o tsv
gives 'every region holds it' 'East US:Completed:100 North Europe:Completed:100 West US 2:Completed:100' \
  sh -c "az sig image-version show ${image[*]} -e 1.0.0 --expand ReplicationStatus \
    --query 'sort_by(replicationStatus.summary, &region)[].join(\`:\`, [region, state, to_string(progress)])' -o tsv | xargs -d '\n'"
gives 'replicated as a whole' Completed \
  az sig image-version show "${image[@]}" -e 1.0.0 --expand ReplicationStatus --query replicationStatus.aggregatedState -o tsv
for e in 1.0.10 1.0.9; do works "version $e" "${version[@]}" -e $e "${from[@]}"; done
gives 'versions are ordered as numbers' '1.0.0 1.0.9 1.0.10' sh -c "az sig image-version list ${image[*]} --query '[].name' -o tsv | xargs"
refuses 'a region is not left out unawares' 'Deletion of previously replicated locations is not allowed' \
  az sig image-version update "${image[@]}" -e 1.0.0 --target-regions eastus westus2=1
gives 'take a region away' 2 \
  az sig image-version update "${image[@]}" -e 1.0.0 --target-regions eastus westus2=1 --allow-replicated-location-deletion true \
  --query 'length(publishingProfile.targetRegions)' -o tsv
gives 'add a region' Succeeded \
  az sig image-version update "${image[@]}" -e 1.0.0 --add publishingProfile.targetRegions name=chinanorth2 --query provisioningState -o tsv
gives 'and it is there' 3 az sig image-version show "${image[@]}" -e 1.0.0 --query 'length(publishingProfile.targetRegions)' -o tsv

refuses 'a region twice' 'Duplicate regions are not allowed in target publishing regions' \
  "${version[@]}" -e 2.0.0 "${from[@]}" --target-regions eastus westus2 westus2=1
refuses 'an unknown region' 'atlantis' "${version[@]}" -e 2.0.0 "${from[@]}" --target-regions eastus atlantis
refuses 'version 1.0' 'version name is invalid' "${version[@]}" -e 1.0 "${from[@]}"
refuses 'regions without the own one' 'must contain the location' "${version[@]}" -e 2.0.0 "${from[@]}" --target-regions westus2
refuses 'a definition without a gallery' "ParentResourceNotFound|Parent resource|ResourceNotFound" \
  az sig image-definition create -g pictures -r none -i def --publisher p --offer o --sku s2 --os-type Linux
refuses 'a version without a definition' "ParentResourceNotFound|ResourceNotFound" \
  az sig image-version create -g pictures -r gal -i none -e 1.0.0 "${from[@]}"
refuses 'a source that is not there' 'not found|NotFound' "${version[@]}" -e 2.0.0 --os-snapshot "${source}x"
refuses 'the gallery elsewhere' 'InvalidResourceLocation' az sig create -g pictures -r gal -l westus2
refuses 'a gallery name with a dash' 'Gallery name is invalid|InvalidParameter' az sig create -g pictures -r bad-name
refuses 'a definition with versions stays' 'CannotDeleteResource|nested' az sig image-definition delete "${image[@]}"

works 'delete a version' az sig image-version delete "${image[@]}" -e 1.0.9
gives 'it is gone' '1.0.0 1.0.10' sh -c "az sig image-version list ${image[*]} --query '[].name' -o tsv | xargs"
