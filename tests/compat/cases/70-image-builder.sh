# shellcheck shell=bash disable=SC2154
# Image templates with az: made in parts (--defer), created, shown, refused, changed, triggered, deleted; dry runs of lazuli build.

publish() { "$lazuli" image publish --data-dir "$data" --publisher Lazuli --offer build --sku gen2 --generation V2 "$@"; }
works 'a platform image to build from' publish --version 1.0.0 --location eastus "$tiny"
works 'group of the templates' az group create -n builder -l eastus
works 'a gallery' az sig create -g builder -r buildgal
works 'a definition for the results' az sig image-definition create -g builder -r buildgal -i result --os-type Linux --os-state Generalized \
  --hyper-v-generation V2 --publisher p --offer o --sku s
works 'an identity' az identity create -g builder -n builder-id
identity=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["principalId"])' <<< "$out")
works 'an account for scripts' az storage account create -g builder -n lzbuildscripts -l eastus --sku Standard_LRS
key=$(az storage account keys list -g builder -n lzbuildscripts --query '[0].value' -o tsv)
by_key=(--account-name lzbuildscripts --account-key "$key" --blob-endpoint "$(credential armEndpoint)/lzbuildscripts")
works 'a container' az storage container create -n scripts "${by_key[@]}"
printf '#!/bin/sh\necho customized > /etc/customized\n' > "$work/setup.sh"
works 'a script' az storage blob upload -c scripts -n setup.sh -f "$work/setup.sh" --type block "${by_key[@]}" --no-progress
script=https://lzbuildscripts.blob.core.windows.net/scripts/setup.sh
group=/subscriptions/$subscription/resourceGroups/builder

template=(-g builder -n t1)
create=(az image builder create "${template[@]}" --image-source Lazuli:build:gen2:latest --identity builder-id --vm-size Standard_B1ls
  --shared-image-destinations buildgal/result=eastus --managed-image-destinations img1=eastus --scripts "$script")
refuses 'an identity without rights' 'Not authorized to access the resource: .*Please check the user assigned identity' "${create[@]}"
gives 'the template says why' 'Failed Other' \
  sh -c "az image builder show ${template[*]} --query '[provisioningState, provisioningError.provisioningErrorCode]' -o tsv | xargs"
works 'it can be deleted' az image builder delete "${template[@]}"
works 'the role Image Builder needs' az role assignment create --assignee-object-id "$identity" --assignee-principal-type ServicePrincipal \
  --role Contributor --scope "$group"
works 'and one for scripts' az role assignment create --assignee-object-id "$identity" --assignee-principal-type ServicePrincipal \
  --role 'Storage Blob Data Reader' --scope "$group"

works 'az image builder create' "${create[@]}"
gives 'its source is resolved' '1.0.0 Succeeded' \
  sh -c "az image builder show ${template[*]} --query '[source.exactVersion, provisioningState]' -o tsv | xargs"
gives 'its script was fetched' "$(sha256sum < "$work/setup.sh" | cut -d' ' -f1)" \
  az image builder show "${template[@]}" --query 'customize[0].sha256Checksum' -o tsv
staging=$(az image builder show "${template[@]}" --query exactStagingResourceGroup -o tsv)
gives 'its staging group' 'IT_builder_t1 AzureVMImageBuilder t1' \
  sh -c "az group show -n '${staging##*/}' --query '[name, tags.createdBy, tags.imageTemplateName]' -o tsv | sed 's/_[0-9a-f-]*\$//' | xargs"
gives 'list them' t1 az image builder list -g builder --query '[].name' -o tsv
gives 'no run has made anything' '[]' az image builder show-runs "${template[@]}" -o json
refuses 'a template does not change' 'Update/Upgrade of image templates is currently not supported' "${create[@]}"
gives 'its identity' 1 az image builder identity show "${template[@]}" --query 'length(userAssignedIdentities)' -o tsv
refuses 'nothing runs that could be cancelled' 'OperationNotAllowed' az image builder cancel "${template[@]}"

trigger=(-g builder --image-template-name t1)
gives 'a trigger' SourceImage az image builder trigger create "${trigger[@]}" -n source --kind SourceImage --query kind -o tsv
gives 'it is active' 'Healthy' az image builder trigger show "${trigger[@]}" -n source --query status.code -o tsv
gives 'list triggers' source az image builder trigger list "${trigger[@]}" --query '[].name' -o tsv
works 'delete it' az image builder trigger delete "${trigger[@]}" -n source --yes

# In parts, as az does it with --defer.
second=(-g builder -n t2)
works 'a template in parts' az image builder create "${second[@]}" --image-source Lazuli:build:gen2:1.0.0 --identity builder-id --defer
works 'a customizer' az image builder customizer add "${second[@]}" --customizer-name c1 --type shell --inline-script 'echo hi' --defer
works 'a file' az image builder customizer add "${second[@]}" --customizer-name f1 --type file --file-source "$script" --dest-path /tmp/x --defer
works 'an output' az image builder output add "${second[@]}" --managed-image img2 --managed-image-location eastus --output-name o2 --defer
works 'a VHD' az image builder output add "${second[@]}" --is-vhd --output-name o3 --defer
works 'a validator' az image builder validator add "${second[@]}" --dis-on-failure true --source-validation-only false --defer
works 'an optimizer' az image builder optimizer add "${second[@]}" --enable-vm-boot true --defer
works 'an error handler' az image builder error-handler add "${second[@]}" --on-customizer-error abort --on-validation-error cleanup --defer
works 'all of it at once' az image builder update "${second[@]}"
gives 'as it was put together' 'c1 f1 o2 o3 Enabled abort True' \
  sh -c "az image builder show ${second[*]} --query '[customize[].name, distribute[].runOutputName, [optimize.vmBoot.state, errorHandling.onCustomizerError, to_string(validate.continueDistributeOnFailure)]][]' -o tsv | sed 's/true/True/' | xargs"

cat > "$work/template.json" <<JSON
{"location": "eastus", "identity": {"type": "UserAssigned", "userAssignedIdentities": {"$group/providers/Microsoft.ManagedIdentity/userAssignedIdentities/builder-id": {}}},
 "properties": {"source": {"type": "PlatformImage", "publisher": "Lazuli", "offer": "build", "sku": "gen2", "version": "latest"},
  "customize": [{"type": "Shell", "scriptUri": "$script"}], "vmProfile": {"vmSize": "Standard_B1ls"},
  "distribute": [{"type": "SharedImage", "runOutputName": "g", "replicationRegions": ["eastus"], "galleryImageId": "$group/providers/Microsoft.Compute/galleries/buildgal/images/result"}]}}
JSON
build=("$lazuli" build check --data-dir "$data" -g builder -n t3)
works 'a dry run' "${build[@]}" "$work/template.json"
holds 'tells the version' grep -q 'Version 1.0.0 would be published' <<< "$out"
holds 'and that the machine fits' grep -q 'quota/machine *The host has room for a machine of the size' <<< "$out"
refuses 'and makes nothing' 'ResourceNotFound' az image builder show -g builder -n t3
sed -i 's/setup.sh/none.sh/; s/"latest"/"9.9.9"/' "$work/template.json"
if try "${build[@]}" "$work/template.json"; then no 'a dry run of a bad template fails'; else ok 'a dry run of a bad template fails'; fi
holds 'and tells all that is wrong' test "$(grep -c WRONG <<< "$out")" -eq 2
works 'a dry run of one that is there' "$lazuli" build check --data-dir "$data" -g builder -n t1

# Templates are not moved, as in Azure.
works 'another group' az group create -n builder2 -l eastus
template_id=$group/providers/Microsoft.VirtualMachineImages/imageTemplates/t1
refuses 'az resource move' "Resource move is not supported for resource types 'Microsoft.VirtualMachineImages/imageTemplates'" \
  az resource move --destination-group builder2 --ids "$template_id"
refuses 'its validation' ResourceMoveValidationFailed az rest --method post --url "$group/validateMoveResources?api-version=2021-04-01" \
  --body "{\"resources\": [\"$template_id\"], \"targetResourceGroup\": \"${group}2\"}"
works 'delete it' az group delete -n builder2 --yes

for name in t1 t2; do works "az image builder delete ($name)" az image builder delete -g builder -n "$name"; done
refuses 'the staging group went with it' 'ResourceGroupNotFound' az group show -n "${staging##*/}"
works 'delete the group' az group delete -n builder --yes
works 'unpublish the image' "$lazuli" image unpublish --data-dir "$data" Lazuli:build:gen2:1.0.0
