# shellcheck shell=bash disable=SC2154
# Image templates that run, on the tiny guest: deployed as an ARM template of the shape of Azure's quick starts, put together with az,
# cancelled, made with the SDKs. The machines of a run need 15 to 20 seconds each under emulation.

publish() { "$lazuli" image publish --data-dir "$data" --publisher Canonical --offer 0001-com-ubuntu-server-focal --sku 20_04-lts-gen2 --generation V2 "$@"; }
works 'the platform image that the quick starts name' publish --version 1.0.0 --location eastus "$tiny"
works 'group of the runs' az group create -n runs -l eastus
works 'an account for scripts and files' az storage account create -g runs -n lzrunsfiles -l eastus --sku Standard_LRS
key=$(az storage account keys list -g runs -n lzrunsfiles --query '[0].value' -o tsv)
by_key=(--account-name lzrunsfiles --account-key "$key" --blob-endpoint "$(credential armEndpoint)/lzrunsfiles" --no-progress)
works 'a container' az storage container create -n files "${by_key[@]:0:6}"
# The tiny guest has neither of the agents that generalize Linux: its templates end with a script of their own.
deprovision='echo deprovision > /tmp/DeprovisioningScript.sh'
printf '#!/bin/sh\nset -e\ntouch /tmp/customized\nsudo cp /tmp/customized /etc/customized\n%s\n' "$deprovision" > "$work/customize.sh"
echo '<h1>Contoso</h1>' > "$work/index.html"
for file in customize.sh index.html; do
  works "upload $file" az storage blob upload -c files -n $file -f "$work/$file" --type block "${by_key[@]}"
done
files=https://lzrunsfiles.blob.core.windows.net/files
in_group=/subscriptions/$subscription/resourceGroups/runs/providers
gallery=$in_group/Microsoft.Compute/galleries/runsgal

# Identity, rights, gallery, definition and image template in one deployment.
parameters=(secondRegion=westus2 identityName=runs-id galleryName=runsgal definitionName=baseline templateName=helloImageTemplate
  scriptUri="$files/customize.sh" fileUri="$files/index.html" fileSha256="$(sha256sum < "$work/index.html" | cut -d' ' -f1)")
works 'az deployment group create' az deployment group create -g runs -n hello --template-file "$compat/templates/image-builder.json" \
  --parameters "${parameters[@]}" -o json
staging=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["properties"]["outputs"]["staging"]["value"])' <<< "$out" 2>/dev/null || true)
hello=(-g runs --resource-type Microsoft.VirtualMachineImages/imageTemplates -n helloImageTemplate)
works 'az resource invoke-action: Run' az resource invoke-action "${hello[@]}" --action Run
last_run() { az image builder show -g runs -n "$1" --query 'lastRunStatus.[runState, message]' -o tsv | xargs; }
gives 'it has succeeded' Succeeded last_run helloImageTemplate
gives 'the baseline is in both regions' 'azureVmImageBuilder East US West US 2' \
  sh -c "az sig image-version show -g runs -r runsgal -i baseline -e 1.0.0 \
  --query \"[tags.source, join(' ', sort(publishingProfile.targetRegions[].name))]\" -o tsv | xargs"
gives 'its output' "$gallery/images/baseline/versions/1.0.0" az image builder show-runs -g runs -n helloImageTemplate --query '[0].artifactId' -o tsv
# What is known of the build, verified with nothing of ours.
works 'lazuli image show --json' "$lazuli" image show --data-dir "$data" --json "$gallery/images/baseline/versions/1.0.0"
printf '%s' "$out" > "$work/build.json"
signer=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["keyId"])' "$work/build.json")
verify() { python-sdk "$compat/../../docs/examples/verify-build.py" "$@"; }
works 'its statements are of the server'"'"'s key' verify "$signer" "$work/build.json"
holds 'and hold a CycloneDX document' grep -q '"bomFormat": "CycloneDX"' <<< "$out"
refuses 'not of another one' 'NOT VERIFIED' verify "$(printf '%064d' 1)" "$work/build.json"
python3 - "$work/build.json" <<'PYTHON'
import base64, json, sys
with open(sys.argv[1], "r+") as file:
    build = json.load(file)
    statement = json.loads(base64.b64decode(build["sbom"]["payload"]))
    statement["predicate"]["components"] = []
    statement["predicate"]["version"] = 2
    build["sbom"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    file.seek(0); file.truncate(); json.dump(build, file)
PYTHON
refuses 'nor if a part was changed' 'NOT VERIFIED' verify "$signer" "$work/build.json"
gives 'of the run only the account is left' Microsoft.Storage/storageAccounts az resource list -g "${staging##*/}" --query '[].type' -o tsv

# The quick start that goes on from it: after changing ids only.
sed "s#<region1>#eastus#; s#<region2>#westus2#; s#<imgBuilderId>#$in_group/Microsoft.ManagedIdentity/userAssignedIdentities/runs-id#
  s#<sigDefImgVersionId>#$gallery/images/baseline/versions/1.0.0#; s#<subscriptionID>#$subscription#; s#<rgName>#runs#
  s#<sharedImageGalName>#runsgal#; s#<imageDefName>#baseline#; s#<runOutputName>#sigOnSig#" \
  "$compat/templates/gallery-from-gallery.json" > "$work/sig-on-sig.json"
works 'az resource create --is-full-object' az resource create -g runs --properties "@$work/sig-on-sig.json" --is-full-object \
  --resource-type Microsoft.VirtualMachineImages/imageTemplates -n sigOnSig
gives 'as it was written' 'Succeeded sigOnSig eastus westus2' sh -c "az image builder show -g runs -n sigOnSig \
  --query '[[provisioningState, distribute[0].runOutputName], distribute[0].replicationRegions][]' -o tsv | xargs"
works 'delete it' az resource delete -g runs --resource-type Microsoft.VirtualMachineImages/imageTemplates -n sigOnSig

# Put together with az: a department's image, of the baseline, with its number.
works 'a definition for the department' az sig image-definition create -g runs -r runsgal -i department --os-type Linux \
  --os-state Generalized --hyper-v-generation V2 --publisher Contoso --offer Linux --sku department
web=(-g runs -n web)
works 'a template in parts' az image builder create "${web[@]}" --image-source "$gallery/images/baseline/versions/1.0.0" --identity runs-id \
  --vm-size Standard_B1ls --build-timeout 30 --defer
works 'a customizer' az image builder customizer add "${web[@]}" --customizer-name page --type file --file-source "$files/index.html" \
  --dest-path /tmp/index.html --defer
works 'a wrong one' az image builder customizer add "${web[@]}" --customizer-name wrong --type shell --inline-script 'exit 1' --defer
works 'remove it' az image builder customizer remove "${web[@]}" --customizer-name wrong --defer
works 'a right one' az image builder customizer add "${web[@]}" --customizer-name install --type shell \
  --inline-script 'set -e' 'grep -r Contoso /buildArtifacts' 'sudo cp /tmp/index.html /srv.html' "$deprovision" --defer
works 'a version' az image builder output add "${web[@]}" --gallery-name runsgal --gallery-image-definition department \
  --gallery-replication-regions eastus --output-name gallery --defer
works 'numbered as its source' az image builder output versioning set "${web[@]}" --output-name gallery --scheme Source --defer
gives 'show that' Source az image builder output versioning show "${web[@]}" --output-name gallery --defer --query scheme -o tsv
works 'a managed image' az image builder output add "${web[@]}" --managed-image web --managed-image-location eastus --output-name image --defer
works 'a VHD' az image builder output add "${web[@]}" --is-vhd --output-name vhd --defer
works 'one too many' az image builder output add "${web[@]}" --is-vhd --output-name other --defer
works 'remove that' az image builder output remove "${web[@]}" --output-name other --defer
works 'a validator' az image builder validator add "${web[@]}" --dis-on-failure false --source-validation-only false --defer
gives 'show it' false az image builder validator show "${web[@]}" --defer --query 'to_string(continueDistributeOnFailure)' -o tsv
works 'remove it' az image builder validator remove "${web[@]}" --defer
works 'an optimizer' az image builder optimizer add "${web[@]}" --enable-vm-boot false --defer
works 'change it' az image builder optimizer update "${web[@]}" --enable-vm-boot true --defer
gives 'show it' Enabled az image builder optimizer show "${web[@]}" --defer --query vmBoot.state -o tsv
works 'an error handler' az image builder error-handler add "${web[@]}" --on-customizer-error abort --on-validation-error abort --defer
gives 'show it' abort az image builder error-handler show "${web[@]}" --defer --query onCustomizerError -o tsv
works 'remove it' az image builder error-handler remove "${web[@]}" --defer
works 'create it' az image builder update "${web[@]}"
works 'az image builder run' az image builder run "${web[@]}"
gives 'it has succeeded' Succeeded last_run web
gives 'az image builder show-runs' 'gallery image vhd' sh -c "az image builder show-runs ${web[*]} --query '[].name' -o tsv | sort | xargs"
gives 'the version has the number of its source' "$gallery/images/department/versions/1.0.0" \
  az image builder show-runs "${web[@]}" --query "[?name=='gallery'].artifactId | [0]" -o tsv
gives 'a managed image' Succeeded az image show -g runs -n web --query provisioningState -o tsv
holds 'the log says what came of the optimizer' sh -c "'$lazuli' build logs --data-dir '$data' ${web[*]} | grep -q 'optimize.*first starts will fetch [1-9]'"
holds 'and so does lazuli image show' sh -c "'$lazuli' image show --data-dir '$data' $gallery/images/department/versions/1.0.0 | grep -q '^starts  *fetch [1-9]'"
gives 'a VHD' 1 sh -c "az image builder show-runs ${web[*]} --query \"[?name=='vhd'].artifactUri | [0]\" -o tsv | grep -c '/vhds/vhd.vhd\$'"

# Cancelled while its script runs.
slow=(-g runs -n slow)
works 'a template that takes long' az image builder create "${slow[@]}" --image-source "$gallery/images/baseline/versions/1.0.0" \
  --identity runs-id --vm-size Standard_B1ls --managed-image-destinations slow=eastus --defer
works 'its script' az image builder customizer add "${slow[@]}" --customizer-name sleep --type shell --inline-script 'sleep 900' --defer
works 'create it' az image builder update "${slow[@]}"
works 'az image builder run --no-wait' az image builder run "${slow[@]}" --no-wait
phase() { [ "$(az image builder show "${slow[@]}" --query "lastRunStatus.$1" -o tsv)" = "$2" ]; }
holds 'it customizes' until_true 120 phase runSubState Customizing
refuses 'one run at a time' 'OperationNotAllowed' az image builder run "${slow[@]}"
refuses 'what runs is not deleted' 'OperationNotAllowed' az image builder delete "${slow[@]}"
works 'az image builder cancel' az image builder cancel "${slow[@]}"
holds 'it is cancelled' until_true 120 phase runState Canceled
gives 'no machine is left' '[]' az vm list -o json --query "[?contains(id, 'IT_runs')]"
gives 'nothing was made' '[]' az image builder show-runs "${slow[@]}" -o json
refuses 'no image either' ResourceNotFound az image show -g runs -n slow

# A machine that is kept where a script fails, and entered as the message says.
kept=(-g runs -n kept)
works 'a template that keeps its machine' az image builder create "${kept[@]}" --image-source "$gallery/images/baseline/versions/1.0.0" \
  --identity runs-id --vm-size Standard_B1ls --managed-image-destinations kept=eastus --defer
works 'a script that fails' az image builder customizer add "${kept[@]}" --customizer-name breaks --type shell \
  --inline-script 'echo here > /tmp/where' 'exit 3' --defer
works 'it is to be looked at' az image builder error-handler add "${kept[@]}" --on-customizer-error abort --on-validation-error abort --defer
works 'create it' az image builder update "${kept[@]}"
refuses 'lazuli build run --wait tells why, and how to enter' "'breaks' ended with exit code 3.*was kept.*ssh -i id_ed25519 packer@" \
  "$lazuli" build run --data-dir "$data" "${kept[@]}" --wait --junit "$work/junit.xml"
holds 'the JUnit report has it' grep -q '<testcase classname="run" name="run"><failure message="Failed: .*breaks' "$work/junit.xml"
address=$(sed -n 's/.*packer@\([0-9.]*\)`.*/\1/p' <<< "$err")
account=$(sed -n 's/.* in the storage account \([a-z0-9]*\)\..*/\1/p' <<< "$err")
beside=$(sed -n 's/.* lies at packerlogs\/\([^ ]*\) .*/\1/p' <<< "$err")
staging_of_kept=$(az image builder show "${kept[@]}" --query exactStagingResourceGroup -o tsv)
its_key=$(az storage account keys list -g "${staging_of_kept##*/}" -n "$account" --query '[0].value' -o tsv)
works 'the key that it names' az storage blob download -c packerlogs -n "$beside" -f "$work/kept" --no-progress \
  --account-name "$account" --account-key "$its_key" --blob-endpoint "$(credential armEndpoint)/$account"
chmod 600 "$work/kept"
gives 'somebody looks at it' here ssh -i "$work/kept" -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
  -o LogLevel=ERROR -o ConnectTimeout=20 "packer@$address" cat /tmp/where
works 'the template goes' az image builder delete "${kept[@]}"
gives 'and its machine with it' '[]' az vm list -o json --query "[?contains(id, 'IT_runs')]"

builder=$in_group/Microsoft.ManagedIdentity/userAssignedIdentities/runs-id
latest=$gallery/images/baseline/versions/latest
gives 'azure-mgmt-imagebuilder: created, triggered, run, cancelled, deleted' ok python-sdk "$compat/imagebuilder_sdk.py" runs "$builder" "$latest"
gives '@azure/arm-imagebuilder: the same' ok node-sdk "$compat/imagebuilder_sdk.mjs" runs "$builder" "$latest"

for name in helloImageTemplate web slow; do works "az image builder delete ($name)" az image builder delete -g runs -n $name; done
refuses 'the staging group went with it' ResourceGroupNotFound az group show -n "${staging##*/}"
works 'delete the group' az group delete -n runs --yes
works 'unpublish the image' "$lazuli" image unpublish --data-dir "$data" Canonical:0001-com-ubuntu-server-focal:20_04-lts-gen2:1.0.0
