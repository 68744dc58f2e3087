# shellcheck shell=bash disable=SC2154
# Galleries shared with another tenant: directly, then with everybody. The consumer has no right at the owner's. Needs the case `disk`.

admin() { "$lazuli" admin --data-dir "$data" "$@"; }
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

buyers=$(admin tenant create --name buyers | field tenantId)
made=$(admin client create --tenant "$buyers" --name buyer)
buyer=$(field clientId <<< "$made") buyer_secret=$(field clientSecret <<< "$made")
theirs=$(admin subscription create --tenant "$buyers" --name theirs --owner "$buyer" | field subscriptionId)
# as_buyer COMMAND...: with a configuration folder of its own.
as_buyer() { AZURE_CONFIG_DIR=$work/az-buyer "$@"; }
cp -r "$AZURE_CONFIG_DIR" "$work/az-buyer"
as_buyer az account clear >/dev/null 2>&1 || true
works 'the consumer signs in to its tenant' \
  as_buyer az login --service-principal -u "$buyer" -p "$buyer_secret" --tenant "$buyers"
works 'a group of the consumer' as_buyer az group create -n bought -l eastus

works 'group of the shared galleries' az group create -n offered -l eastus
golden=$(az disk show -g disks -n golden --query id -o tsv)
# offer GALLERY ARGUMENT...: a gallery with a version in two regions, and one that is never the latest.
offer() {
  local gallery=$1; shift
  local image=(-g offered -r "$gallery" -i def) two=(--target-regions eastus westus2)
  works "gallery $gallery" az sig create -g offered -r "$gallery" "$@"
  works 'its definition' az sig image-definition create "${image[@]}" --publisher p --offer o --sku s --os-type Linux \
    --os-state Generalized --hyper-v-generation V2 --features SecurityType=Standard
  works 'its version' az sig image-version create "${image[@]}" -e 1.0.0 --os-snapshot "$golden" "${two[@]}"
  works 'one that is never the latest' az sig image-version create "${image[@]}" -e 2.0.0 --os-snapshot "$golden" "${two[@]}" \
    --exclude-from-latest true
}

offer direct --permissions Groups
unique=$(az sig show -g offered -r direct --query identifier.uniqueName -o tsv)
seen=(-l eastus --gallery-unique-name "$unique")
gives 'nothing is shared yet' 0 as_buyer az sig list-shared -l eastus --query 'length(@)'
refuses 'what is not shared is not there' "\(NotFound\) please check if the gallery name '$unique' is valid" \
  as_buyer az sig show-shared "${seen[@]}"
works 'share add' az sig share add -g offered -r direct --subscription-ids "$theirs" --tenant-ids "$buyers"
works 'share wait' az sig share wait -g offered -r direct --updated --interval 1 --timeout 60
gives 'whom it is shared with' "AADTenants:$buyers Subscriptions:$theirs" sh -c "az sig show -g offered -r direct --select Permissions \
  --query 'sort_by(sharingProfile.groups, &type)[].join(\`:\`, [type, ids[0]])' -o tsv | xargs"
gives 'list-shared' "$unique" as_buyer az sig list-shared -l eastus --query '[].name' -o tsv
gives 'list-shared with the tenant' "$unique" as_buyer az sig list-shared -l eastus --shared-to tenant --query '[].name' -o tsv
gives 'only where it is' 0 as_buyer az sig list-shared -l northeurope --query 'length(@)'
gives 'show-shared' "/SharedGalleries/$unique" as_buyer az sig show-shared "${seen[@]}" --query uniqueId -o tsv
gives 'image-definition list-shared' def as_buyer az sig image-definition list-shared "${seen[@]}" --query '[].name' -o tsv
gives 'image-definition show-shared' 'Linux V2' sh -c '"$@" | xargs' - env AZURE_CONFIG_DIR="$work/az-buyer" \
  az sig image-definition show-shared "${seen[@]}" -i def --query '[osType, hyperVGeneration]' -o tsv
gives 'image-version list-shared' '1.0.0 2.0.0' sh -c '"$@" | xargs' - env AZURE_CONFIG_DIR="$work/az-buyer" \
  az sig image-version list-shared "${seen[@]}" -i def --query '[].name' -o tsv
gives 'image-version show-shared' "/SharedGalleries/$unique/Images/def/Versions/1.0.0" \
  as_buyer az sig image-version show-shared "${seen[@]}" -i def -e 1.0.0 --query uniqueId -o tsv
refuses 'the gallery itself stays closed' 'InvalidAuthenticationTokenTenant|AuthorizationFailed|SubscriptionNotFound|not found' \
  as_buyer az rest --resource "$LAZULI_ENDPOINT" \
  --url "$LAZULI_ENDPOINT/subscriptions/$subscription/resourceGroups/offered/providers/Microsoft.Compute/galleries/direct?api-version=2024-03-03"

[ -f "$work/key" ] || ssh-keygen -q -t ed25519 -N '' -f "$work/key"
shared=/SharedGalleries/$unique/Images/def/Versions
works 'az vm create from the shared image' as_buyer az vm create -g bought -n made --image "$shared/latest" -l eastus \
  --size Standard_B1ls --admin-username azureuser --ssh-key-values "$work/key.pub" --public-ip-sku Standard -o json
bought=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["publicIpAddress"])' <<< "$out" 2>/dev/null || true)
at_bought() {
  ssh -i "$work/key" -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
    -o ConnectTimeout=20 "azureuser@$bought" "$@"
}
holds 'ssh answers at the address that az printed' until_true 120 at_bought true
gives 'it is that machine' made at_bought hostname
gives 'the newest that is not excluded' "1.0.0" as_buyer az vm show -g bought -n made --query storageProfile.imageReference.exactVersion -o tsv
works 'delete it' as_buyer az vm delete -g bought -n made --yes
gives 'a disk of an excluded version by its number' Unattached as_buyer az disk create -g bought -n disk -l westus2 \
  --gallery-image-reference "$shared/2.0.0" --query diskState -o tsv
refuses 'a region without the image' "GalleryImageNotFound.*is not available in northeurope region" as_buyer az disk create -g bought \
  -n nowhere -l northeurope --gallery-image-reference "$shared/1.0.0"
works 'share remove' az sig share remove -g offered -r direct --subscription-ids "$theirs"
gives 'the tenant still sees it' "$unique" as_buyer az sig list-shared -l eastus --shared-to tenant --query '[].name' -o tsv
refuses 'a shared gallery is not deleted' 'Reset its sharing first' az sig delete -g offered -r direct
works 'share reset' az sig share reset -g offered -r direct
refuses 'nobody sees it any more' NotFound as_buyer az sig image-version show-shared "${seen[@]}" -i def -e 1.0.0
refuses 'nor uses it' GalleryImageNotFound as_buyer az disk create -g bought -n late -l eastus --gallery-image-reference "$shared/1.0.0"
gives 'what was made of it stays' Unattached as_buyer az disk show -g bought -n disk --query diskState -o tsv

refuses 'a community gallery has a publisher' 'publisher' az sig create -g offered -r public --permissions Community
offer public --permissions Community --publisher-uri https://publisher.example --publisher-email images@publisher.example \
  --eula https://publisher.example/eula --public-name-prefix offered
public=$(az sig show -g offered -r public --query 'sharingProfile.communityGalleryInfo.publicNames[0]' -o tsv)
holds 'its public name begins with the prefix' grep -qE '^offered-[0-9a-f-]{36}$' <<< "$public"
seen=(-l eastus --public-gallery-name "$public")
refuses 'it is not open yet' NotFound as_buyer az sig show-community "${seen[@]}"
works 'share enable-community' az sig share enable-community -g offered -r public
gives 'list-community' "$public" as_buyer az sig list-community -l eastus --query '[].name' -o tsv
gives 'list-community everywhere' 'eastus westus2' sh -c '"$@" | xargs' - env AZURE_CONFIG_DIR="$work/az-buyer" \
  az sig list-community --query "[?name=='$public'].location" -o tsv
gives 'show-community' 'https://publisher.example/eula' \
  as_buyer az sig show-community "${seen[@]}" --query communityMetadata.eula -o tsv
gives 'image-definition list-community' def as_buyer az sig image-definition list-community "${seen[@]}" --query '[].name' -o tsv
gives 'image-definition show-community' Generalized \
  as_buyer az sig image-definition show-community "${seen[@]}" -i def --query osState -o tsv
gives 'image-version list-community' '1.0.0 2.0.0' sh -c '"$@" | xargs' - env AZURE_CONFIG_DIR="$work/az-buyer" \
  az sig image-version list-community "${seen[@]}" -i def --query '[].name' -o tsv
gives 'image-version show-community' false \
  as_buyer az sig image-version show-community "${seen[@]}" -i def -e 1.0.0 --query excludeFromLatest -o tsv
refuses 'other queries are refused in words' "one kind of query" as_buyer az rest --method post --resource "$LAZULI_ENDPOINT" \
  --url "$LAZULI_ENDPOINT/providers/Microsoft.ResourceGraph/resources?api-version=2021-03-01" --body '{"query": "resources | take 1"}'
gives 'a disk of the community image' Unattached as_buyer az disk create -g bought -n common -l eastus \
  --gallery-image-reference "/CommunityGalleries/$public/Images/def/Versions/latest" --query diskState -o tsv
gives 'az vm create takes it' Succeeded as_buyer az vm create -g bought -n checked -l eastus --accept-term --validate \
  --image "/CommunityGalleries/$public/Images/def/Versions/latest" --size Standard_B1ls --admin-username azureuser \
  --ssh-key-values "$work/key.pub" --query properties.provisioningState -o tsv
works 'share reset of it' az sig share reset -g offered -r public
gives 'it is listed no more' 0 as_buyer az sig list-community -l eastus --query 'length(@)'
works 'the group of the consumer goes' as_buyer az group delete -n bought --yes
works 'the group of the galleries goes' az group delete -n offered --yes
